//! Pods on one node that may and may not pull the same image.
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::client::Body;
use machine::cri;
use machine::cri::image_service_server::{ImageService, ImageServiceServer};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use base64::Engine as _;

use super::*;
use crate::api_handle::ApiHandle;
use crate::events::Happening;
use crate::objects::Objects;
use crate::settings::Settings;
use crate::testing;

type Answer<T> = Result<tonic::Response<T>, Status>;

/// A runtime whose registry wants a password.
#[derive(Debug, Clone, Default)]
struct Runtime {
    present: Arc<Mutex<BTreeSet<String>>>,
    pulls: Arc<Mutex<usize>>,
}

impl Runtime {
    fn has(&self, image: &str) -> bool {
        self.present.lock().unwrap().contains(image)
    }

    fn pulls(&self) -> usize {
        *self.pulls.lock().unwrap()
    }
}

fn name_in(image: Option<ImageSpec>) -> String {
    image.unwrap_or_default().image
}

#[tonic::async_trait]
impl ImageService for Runtime {
    type StreamImagesStream = tokio_stream::Empty<Result<cri::StreamImagesResponse, Status>>;

    async fn image_status(
        &self,
        request: tonic::Request<cri::ImageStatusRequest>,
    ) -> Answer<cri::ImageStatusResponse> {
        let name = name_in(request.into_inner().image);
        let image = self.has(&name).then(|| Image { id: format!("id of {name}"), ..Default::default() });
        Ok(tonic::Response::new(cri::ImageStatusResponse { image, ..Default::default() }))
    }

    async fn pull_image(
        &self,
        request: tonic::Request<cri::PullImageRequest>,
    ) -> Answer<cri::PullImageResponse> {
        let request = request.into_inner();
        *self.pulls.lock().unwrap() += 1;
        if request.auth.is_none_or(|auth| auth.password != "right") {
            return Err(Status::unknown("pull access denied"));
        }
        let image_ref = name_in(request.image);
        self.present.lock().unwrap().insert(image_ref.clone());
        Ok(tonic::Response::new(cri::PullImageResponse { image_ref }))
    }

    async fn list_images(
        &self,
        _: tonic::Request<cri::ListImagesRequest>,
    ) -> Answer<cri::ListImagesResponse> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn stream_images(
        &self,
        _: tonic::Request<cri::StreamImagesRequest>,
    ) -> Answer<Self::StreamImagesStream> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn remove_image(
        &self,
        _: tonic::Request<cri::RemoveImageRequest>,
    ) -> Answer<cri::RemoveImageResponse> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn image_fs_info(
        &self,
        _: tonic::Request<cri::ImageFsInfoRequest>,
    ) -> Answer<cri::ImageFsInfoResponse> {
        Err(Status::unimplemented("not asked for"))
    }
}

/// An API server with every pull secret that is asked for; its password is the namespace's name without what follows a dash.
fn api() -> kube::Client {
    let answer = |request: Request<Body>| async move {
        let parts: Vec<&str> = request.uri().path().split('/').collect();
        let (namespace, name) = (parts[4], parts[6]);
        let password = namespace.split('-').next().unwrap_or_default();
        let config =
            serde_json::json!({"auths": {"registry.test": {"username": "user", "password": password}}});
        let encoded = base64::engine::general_purpose::STANDARD.encode(config.to_string());
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace, "uid": format!("uid of {namespace}/{name}")},
            "data": {".dockerconfigjson": encoded},
        });
        Ok::<_, std::convert::Infallible>(Response::new(Body::from(serde_json::to_vec(&secret).unwrap())))
    };
    kube::Client::new(tower::service_fn(answer), "default")
}

/// A node with its runtime.
struct Node {
    folder: tempfile::TempDir,
    runtime: Runtime,
    ctx: Context,
    happenings: mpsc::Receiver<Happening>,
    images: Images,
    _api: watch::Sender<Option<kube::Client>>,
}

impl Node {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("cri.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let runtime = Runtime::default();
        let service = ImageServiceServer::new(runtime.clone());
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let (mut ctx, happenings) = testing::context(Settings::default(), &socket);
        let (sender, watch) = watch::channel(Some(api()));
        ctx.api = ApiHandle::new(watch);
        ctx.objects = Objects::new(ctx.api.clone());
        let images = images(folder.path());
        Self { folder, runtime, ctx, happenings, images, _api: sender }
    }

    /// What a pod of the namespace gets that wants the image.
    async fn wants(
        &mut self,
        namespace: &str,
        secret: Option<&str>,
        image: &str,
        policy: &str,
    ) -> Result<(), PullFailure> {
        let pull_secrets =
            secret.map(|name| vec![k8s_openapi::api::core::v1::LocalObjectReference { name: name.into() }]);
        let pod = Pod {
            metadata: ObjectMeta {
                namespace: Some(namespace.into()),
                uid: Some(format!("{namespace} {secret:?} {image} {policy}")),
                ..Default::default()
            },
            spec: Some(PodSpec { image_pull_secrets: pull_secrets, ..Default::default() }),
            ..Default::default()
        };
        let container = Container {
            name: "main".into(),
            image: Some(image.into()),
            image_pull_policy: Some(policy.into()),
            ..Default::default()
        };
        let sandbox = PodSandboxConfig::default();
        self.images.ensure(&self.ctx, &pod, Kind::App, &container, &sandbox, || 0).await.map(drop)
    }

    /// The agent starts anew.
    fn restart(&mut self) {
        self.images = images(self.folder.path());
    }
}

fn images(folder: &Path) -> Images {
    Images::new(false, Pulled::open(folder.join("image_manager")))
}

/// KEP-2535: what one pod's secret has brought to the node, the next pod shall not have without it.
#[tokio::test]
async fn a_second_pod_without_the_pull_secret_gets_nothing() {
    let mut node = Node::start().await;
    for round in 0..30 {
        let image = format!("registry.test/private:{round}");
        node.wants("right", Some("pull"), &image, "IfNotPresent").await.unwrap();
        assert!(node.runtime.has(&image));
        if round % 2 == 1 {
            node.restart();
        }
        let failure = node.wants("right", None, &image, "IfNotPresent").await.unwrap_err();
        assert_eq!((failure.reason, failure.message.contains("pull access denied")), ("ErrImagePull", true));
        let failure = node.wants("wrong", Some("pull"), &image, "IfNotPresent").await.unwrap_err();
        assert_eq!(failure.reason, "ErrImagePull");
        // It does not learn that the image is here.
        let hidden = node.wants("right", None, &image, "Never").await.unwrap_err();
        let absent = node.wants("right", None, "registry.test/absent:1", "Never").await.unwrap_err();
        assert_eq!((hidden.reason, absent.reason), ("ErrImageNeverPull", "ErrImageNeverPull"));
        assert_eq!(hidden.message.replace(&image, ""), absent.message.replace("registry.test/absent:1", ""));
        // Whoever has the secret, or another of the same content, needs no registry.
        let pulls = node.runtime.pulls();
        node.wants("right", Some("pull"), &image, "IfNotPresent").await.unwrap();
        node.wants("right-elsewhere", Some("copy"), &image, "Never").await.unwrap();
        assert_eq!(node.runtime.pulls(), pulls);
    }
    let mut granted = 0;
    while let Ok(happening) = node.happenings.try_recv() {
        granted += usize::from(format!("{happening:?}").contains("can be accessed by the pod"));
    }
    assert_eq!(granted, 2 * 30, "of events that speak of an image that may be used");
}

/// What was on the node before any pod is for all.
#[tokio::test]
async fn an_image_that_no_pod_has_brought_is_for_all() {
    let mut node = Node::start().await;
    node.runtime.present.lock().unwrap().insert("registry.test/shipped:1".into());
    node.wants("wrong", None, "registry.test/shipped:1", "Never").await.unwrap();
    assert_eq!(node.runtime.pulls(), 0);
}
