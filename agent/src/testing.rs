//! What tests of several parts need: a [`Context`] that reaches nothing outside the test.
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::api_handle::ApiHandle;
use crate::context::Context;
use crate::cri::Cri;
use crate::events::{Happening, Recorder};
use crate::objects::Objects;
use crate::pods::PodStore;
use crate::serving::ServingCertificate;
use crate::settings::Settings;

/// A context without an API server whose runtime is the socket at `cri`, and the events that are reported through it.
pub fn context(settings: Settings, cri: &std::path::Path) -> (Context, mpsc::Receiver<Happening>) {
    let (events, happenings) = Recorder::new();
    let api = ApiHandle::new(watch::channel(None).1);
    let ctx = Context {
        settings: watch::channel(Arc::new(settings)).1,
        node_name: "node".into(),
        cri: Cri::new(cri),
        api: api.clone(),
        objects: Objects::new(api),
        pods: PodStore::default(),
        events,
        node: watch::channel(None).1,
        rates: Default::default(),
        serving: Arc::new(ServingCertificate::self_signed(vec!["node".into()]).unwrap()),
    };
    (ctx, happenings)
}
