//! The CRI's `ImageService`.
use std::collections::HashMap;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use images::{Auth, Image, PullError, Store, StoreError};
use machine::cri;
use machine::cri::image_service_server::ImageService;
use node_kit::errors::Chain;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

/// Images per message of a streamed list.
const BATCH: usize = 100;

/// Serves images of a [`Store`].
#[derive(Debug, Clone)]
pub struct Service(pub Store);

impl Service {
    /// Runs what blocks on a thread for that.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let store = self.0.clone();
        let result = tokio::task::spawn_blocking(move || work(store)).await;
        result.map_err(|e| Status::internal(format!("image store: {e}")))?.map_err(|e| status(&e))
    }

    async fn listed(&self, filter: Option<cri::ImageFilter>) -> Result<Vec<cri::Image>, Status> {
        let name = filter.and_then(|f| f.image).map(|i| i.image).unwrap_or_default();
        let images = self.blocking(move |store| match name.as_str() {
            "" => store.list(),
            name => Ok(store.resolve(name)?.into_iter().collect()),
        });
        Ok(images.await?.iter().map(to_cri).collect())
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        let images = self.listed(request.into_inner().filter).await?;
        Ok(Response::new(cri::ListImagesResponse { images }))
    }

    type StreamImagesStream = Pin<Box<dyn Stream<Item = Result<cri::StreamImagesResponse, Status>> + Send>>;

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let images = self.listed(request.into_inner().filter).await?;
        let batches: Vec<_> = images
            .chunks(BATCH)
            .map(|images| Ok(cri::StreamImagesResponse { images: images.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(batches))))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let (name, verbose) = (name_of(request.image)?, request.verbose);
        let found = self.blocking(move |store| {
            let Some(image) = store.resolve(&name)? else { return Ok(None) };
            let raw = if verbose { store.raw_config(&image.id)? } else { None };
            Ok(Some((image, raw)))
        });
        let Some((image, raw)) = found.await? else {
            return Ok(Response::new(cri::ImageStatusResponse::default()));
        };
        let info = raw.map(|raw| verbose_info(&image, &raw)).unwrap_or_default();
        Ok(Response::new(cri::ImageStatusResponse { image: Some(to_cri(&image)), info }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let deadline = request.metadata().get("grpc-timeout").and_then(|t| grpc_timeout(t.to_str().ok()?));
        let request = request.into_inner();
        let name = name_of(request.image)?;
        let started = std::time::Instant::now();
        match self.0.pull(&name, request.auth.map(auth).as_ref(), deadline).await {
            Ok(image_ref) => {
                tracing::info!(
                    image = name,
                    id = image_ref,
                    seconds = started.elapsed().as_secs_f32(),
                    "pulled"
                );
                Ok(Response::new(cri::PullImageResponse { image_ref }))
            }
            Err(error) => {
                let text = format!("failed to pull and unpack image {name:?}: {error}");
                tracing::warn!("{text}");
                Err(Status::new(code_of(&error), text))
            }
        }
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let name = name_of(request.into_inner().image)?;
        self.blocking(move |store| store.remove(&name)).await?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        let (mountpoint, usage) = self.0.fs_usage();
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
        let filesystem = cri::FilesystemUsage {
            timestamp,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: mountpoint.display().to_string() }),
            used_bytes: Some(cri::UInt64Value { value: usage.bytes }),
            inodes_used: Some(cri::UInt64Value { value: usage.inodes }),
        };
        let all = vec![filesystem];
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: all.clone(),
            container_filesystems: all,
        }))
    }
}

fn auth(auth: cri::AuthConfig) -> Auth {
    let cri::AuthConfig { username, password, auth, server_address, identity_token, registry_token } = auth;
    Auth { username, password, auth, server_address, identity_token, registry_token }
}

fn name_of(image: Option<cri::ImageSpec>) -> Result<String, Status> {
    let name = image.map(|i| i.image).unwrap_or_default();
    if name.is_empty() { Err(Status::invalid_argument("the request names no image")) } else { Ok(name) }
}

fn to_cri(image: &Image) -> cri::Image {
    let user = image.config.config().as_ref().and_then(|c| c.user().clone()).unwrap_or_default();
    let (uid, username) = user_of(&user);
    cri::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| cri::Int64Value { value }),
        username,
        spec: None,
        pinned: image.pinned,
    }
}

/// `User` of a config as the kubelet judges `runAsNonRoot` by: a number, or a name. A number that is no uid counts as a name, which
/// the kubelet refuses where it matters (CVE-2024-40635).
fn user_of(user: &str) -> (Option<i64>, String) {
    let user = user.split(':').next().unwrap_or("");
    match user.parse::<u32>() {
        _ if user.is_empty() => (Some(0), String::new()),
        Ok(uid) if i32::try_from(uid).is_ok() => (Some(i64::from(uid)), String::new()),
        _ => (None, user.to_owned()),
    }
}

fn verbose_info(image: &Image, raw: &[u8]) -> HashMap<String, String> {
    let spec: serde_json::Value = serde_json::from_slice(raw).unwrap_or_default();
    let layers: Vec<_> = image.layers.iter().map(|p| p.display().to_string()).collect();
    let info = serde_json::json!({ "imageSpec": spec, "layers": layers });
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// `grpc-timeout`: up to eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

fn status(error: &StoreError) -> Status {
    let code = match error {
        StoreError::Pinned(_) => Code::FailedPrecondition,
        StoreError::Gone(_) => Code::NotFound,
        StoreError::SnapshotId(_) => Code::InvalidArgument,
        _ => Code::Internal,
    };
    Status::new(code, Chain(error).to_string())
}

fn code_of(error: &PullError) -> Code {
    match error {
        PullError::Name(_) | PullError::Unqualified(_) => Code::InvalidArgument,
        PullError::NotFound(_) | PullError::Platform(_) => Code::NotFound,
        PullError::Denied(_) | PullError::Refused { .. } => Code::PermissionDenied,
        PullError::Transport { .. } => Code::Unavailable,
        PullError::Deadline => Code::DeadlineExceeded,
        PullError::Malformed(_) | PullError::Digest { .. } | PullError::Layer { .. } => Code::Unknown,
        PullError::Status { .. } => Code::Unknown,
        PullError::Store(_) | PullError::Panicked => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_a_uid_or_a_name() {
        assert_eq!(user_of(""), (Some(0), String::new()));
        assert_eq!(user_of("1000:1000"), (Some(1000), String::new()));
        assert_eq!(user_of("nobody"), (None, "nobody".into()));
        assert_eq!(user_of("4294967296"), (None, "4294967296".into()));
        assert_eq!(user_of("2147483648"), (None, "2147483648".into()));
    }

    #[test]
    fn deadlines_are_read() {
        assert_eq!(grpc_timeout("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(grpc_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(grpc_timeout(""), None);
        assert_eq!(grpc_timeout("1x"), None);
    }
}
