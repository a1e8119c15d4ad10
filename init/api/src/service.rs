//! Each call of the machine API as one on the machine socket.
use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::Bytes;
use machine::api::{self, machine_server::Machine};
use machine::socket::{self, Empty, reply::Result as Answer, request::Call};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::identity::{Role, authorize};
use node_kit::machine_socket::Stream;

use super::init_client::{self, call, descriptor};
use super::{kmsg, logs};

/// Messages that wait for a slow client.
const QUEUE: usize = 16;
/// The largest kubeconfig, and the largest answer of an import, in bytes.
const SMALL: u64 = 1 << 20;
/// How long the runtime may take to unpack an image after the last byte.
const IMPORT: Duration = Duration::from_secs(600);

type DataStream = ReceiverStream<Result<api::Data, Status>>;

/// The machine API of this node.
#[derive(Debug, Clone, Copy)]
pub struct MachineApi;

fn unexpected(answer: &Answer) -> Status {
    Status::internal(
        format!("init answered with something else: {answer:?}").chars().take(200).collect::<String>(),
    )
}

#[tonic::async_trait]
impl Machine for MachineApi {
    async fn version(
        &self,
        request: Request<api::VersionRequest>,
    ) -> Result<Response<api::VersionResponse>, Status> {
        let actor = authorize(&request, "Version", Role::Reader, "")?;
        match call(&actor, Call::Version(Empty {})).await?.0 {
            Answer::Version(v) => Ok(Response::new(api::VersionResponse {
                pintle: v.pintle,
                kernel: v.kernel,
                kubernetes: v.kubernetes,
                image_root_hash: v.image_root_hash,
                boot_id: v.boot_id,
            })),
            other => Err(unexpected(&other)),
        }
    }

    async fn get_config(
        &self,
        request: Request<api::GetConfigRequest>,
    ) -> Result<Response<api::GetConfigResponse>, Status> {
        let secrets = request.get_ref().with_secrets;
        let (role, detail) = if secrets { (Role::Admin, "with secrets") } else { (Role::Reader, "") };
        let actor = authorize(&request, "GetConfig", role, detail)?;
        let Answer::Config(config) =
            call(&actor, Call::GetConfig(socket::GetConfig { with_secrets: secrets })).await?.0
        else {
            return Err(Status::internal("init answered GetConfig with something else"));
        };
        Ok(Response::new(api::GetConfigResponse { yaml: config.yaml, source: config.source }))
    }

    async fn apply_config(
        &self,
        request: Request<api::ApplyConfigRequest>,
    ) -> Result<Response<api::ApplyConfigResponse>, Status> {
        let detail = if request.get_ref().dry_run { "dry run" } else { "" };
        let actor = authorize(&request, "ApplyConfig", Role::Admin, detail)?;
        let apply = request.into_inner();
        if apply.yaml.len() > socket::MAX_CONFIG {
            return Err(Status::invalid_argument("a machine config is at most 1 MiB long"));
        }
        let wanted = socket::ApplyConfig { yaml: apply.yaml, mode: apply.mode, dry_run: apply.dry_run };
        match call(&actor, Call::ApplyConfig(wanted)).await?.0 {
            Answer::Applied(result) => Ok(Response::new(api::ApplyConfigResponse {
                faults: result.faults.into_iter().map(fault).collect(),
                warnings: result.warnings,
                action: result.action,
            })),
            other => Err(unexpected(&other)),
        }
    }

    async fn services(
        &self,
        request: Request<api::ServicesRequest>,
    ) -> Result<Response<api::ServicesResponse>, Status> {
        let actor = authorize(&request, "Services", Role::Reader, "")?;
        match call(&actor, Call::ListServices(Empty {})).await?.0 {
            Answer::Services(list) => {
                let services = list.services.into_iter().map(service).collect();
                Ok(Response::new(api::ServicesResponse { services }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn processes(
        &self,
        request: Request<api::ProcessesRequest>,
    ) -> Result<Response<api::ProcessesResponse>, Status> {
        let actor = authorize(&request, "Processes", Role::Reader, "")?;
        match call(&actor, Call::ListProcesses(Empty {})).await?.0 {
            Answer::Processes(list) => {
                let services = list.services.into_iter().map(service_processes).collect();
                Ok(Response::new(api::ProcessesResponse { services }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn service_action(
        &self,
        request: Request<api::ServiceActionRequest>,
    ) -> Result<Response<api::ServiceActionResponse>, Status> {
        let name = request.get_ref().name.clone();
        let actor = authorize(&request, "ServiceAction", Role::Admin, &name)?;
        let action = request.get_ref().action;
        call(&actor, Call::ServiceAction(socket::ServiceAction { name, action })).await?;
        Ok(Response::new(api::ServiceActionResponse {}))
    }

    type LogsStream = DataStream;

    async fn logs(&self, request: Request<api::LogsRequest>) -> Result<Response<DataStream>, Status> {
        let name = request.get_ref().service.clone();
        let actor = authorize(&request, "Logs", Role::Reader, &name)?;
        let api::LogsRequest { service, follow, tail_lines } = request.into_inner();
        let (out, stream) = mpsc::channel(QUEUE);
        tokio::spawn(logs::send(actor, service, follow, tail_lines, out));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type DmesgStream = DataStream;

    async fn dmesg(&self, request: Request<api::DmesgRequest>) -> Result<Response<DataStream>, Status> {
        let actor = authorize(&request, "Dmesg", Role::Reader, "")?;
        let api::DmesgRequest { follow, tail } = request.into_inner();
        let kernel_log = descriptor(&actor, Call::OpenKmsg(Empty {})).await?;
        let (out, stream) = mpsc::channel(QUEUE);
        tokio::spawn(kmsg::send(kernel_log, follow, tail, out));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type EventsStream = ReceiverStream<Result<api::Event, Status>>;

    async fn events(
        &self,
        request: Request<api::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let actor = authorize(&request, "Events", Role::Reader, "")?;
        let api::EventsRequest { after_sequence, follow } = request.into_inner();
        let watch = Call::WatchEvents(socket::WatchEvents { after_sequence });
        let events = Stream::open(&actor, watch).await.map_err(init_client::status)?;
        let (out, stream) = mpsc::channel(QUEUE);
        tokio::spawn(send_events(events, follow, out));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn image_import(
        &self,
        request: Request<Streaming<api::Data>>,
    ) -> Result<Response<api::ImageImportResponse>, Status> {
        let actor = authorize(&request, "ImageImport", Role::Admin, "")?;
        let descriptor = descriptor(&actor, Call::OpenImageImport(Empty {})).await?;
        let names = import(UnixStream::from(descriptor), request.into_inner()).await?;
        Ok(Response::new(api::ImageImportResponse { names }))
    }

    async fn reboot(
        &self,
        request: Request<api::RebootRequest>,
    ) -> Result<Response<api::RebootResponse>, Status> {
        let actor = authorize(&request, "Reboot", Role::Admin, "")?;
        shut_down(&actor, true, request.get_ref().force).await?;
        Ok(Response::new(api::RebootResponse {}))
    }

    async fn shutdown(
        &self,
        request: Request<api::ShutdownRequest>,
    ) -> Result<Response<api::ShutdownResponse>, Status> {
        let actor = authorize(&request, "Shutdown", Role::Admin, "")?;
        shut_down(&actor, false, request.get_ref().force).await?;
        Ok(Response::new(api::ShutdownResponse {}))
    }

    async fn health(
        &self,
        request: Request<api::HealthRequest>,
    ) -> Result<Response<api::HealthResponse>, Status> {
        let actor = authorize(&request, "Health", Role::Reader, "")?;
        match call(&actor, Call::Health(Empty {})).await?.0 {
            Answer::Health(report) => {
                let healthy = report.conditions.iter().all(|condition| condition.ok);
                let conditions = report.conditions.into_iter().map(condition).collect();
                Ok(Response::new(api::HealthResponse { conditions, healthy }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn kubeconfig(
        &self,
        request: Request<api::KubeconfigRequest>,
    ) -> Result<Response<api::Data>, Status> {
        let actor = authorize(&request, "Kubeconfig", Role::Admin, "")?;
        let descriptor = descriptor(&actor, Call::OpenKubeconfig(Empty {})).await?;
        let mut data = Vec::new();
        File::from(descriptor)
            .take(SMALL)
            .read_to_end(&mut data)
            .map_err(|error| Status::internal(format!("read the kubeconfig: {error}")))?;
        Ok(Response::new(api::Data { data: data.into() }))
    }
}

async fn shut_down(actor: &str, reboot: bool, force: bool) -> Result<(), Status> {
    let reason = format!("asked by {actor} through the machine API");
    call(actor, Call::Shutdown(socket::Shutdown { reboot, force, reason })).await.map(|_| ())
}

/// Events that are there, and with `follow` those to come. init sends old ones at once, so a pause ends them.
async fn send_events(mut events: Stream, follow: bool, out: mpsc::Sender<Result<api::Event, Status>>) {
    loop {
        let pause = if follow { Duration::from_secs(86_400) } else { Duration::from_millis(500) };
        let next = tokio::select! {
            next = events.next() => next,
            () = tokio::time::sleep(pause), if !follow => return,
            () = out.closed() => return,
        };
        let item = match next {
            Ok(Some((Answer::Event(event), _))) => Ok(api::Event {
                sequence: event.sequence,
                unix_ms: event.unix_ms,
                source: event.source,
                kind: event.kind,
                message: event.message,
            }),
            Ok(Some(_)) => continue,
            Ok(None) => return,
            Err(error) => Err(init_client::status(error)),
        };
        let last = item.is_err();
        if out.send(item).await.is_err() || last {
            return;
        }
    }
}

/// The runtime's one line of JSON.
#[derive(Deserialize)]
struct Imported {
    #[serde(default)]
    names: Vec<String>,
    error: Option<String>,
}

async fn import(socket: UnixStream, mut archive: Streaming<api::Data>) -> Result<Vec<String>, Status> {
    let failed =
        |error: std::io::Error| Status::unavailable(format!("hand the archive to the runtime: {error}"));
    socket.set_nonblocking(true).map_err(failed)?;
    let mut socket = tokio::net::UnixStream::from_std(socket).map_err(failed)?;
    while let Some(api::Data { data }) = archive.message().await? {
        let data: Bytes = data;
        if socket.write_all(&data).await.is_err() {
            // The runtime gave up early; its answer says why.
            break;
        }
    }
    let _ = socket.shutdown().await;
    let mut answer = Vec::new();
    let mut reader = socket.take(SMALL);
    tokio::time::timeout(IMPORT, reader.read_to_end(&mut answer))
        .await
        .map_err(|_| Status::deadline_exceeded("the runtime did not finish the import within 10 minutes"))?
        .map_err(failed)?;
    let imported: Imported = serde_json::from_slice(&answer).map_err(|_| {
        Status::unavailable("the runtime ended the import without an answer; see `pintle logs runtime`")
    })?;
    match imported.error {
        Some(error) => Err(Status::invalid_argument(error)),
        None => Ok(imported.names),
    }
}

fn fault(f: socket::Fault) -> api::Fault {
    api::Fault {
        file: f.file,
        line: f.line,
        column: f.column,
        field: f.field,
        message: f.message,
        remedy: f.remedy,
    }
}

fn service(s: socket::Service) -> api::Service {
    api::Service {
        name: s.name,
        state: s.state,
        reason: s.reason,
        pid: s.pid,
        restarts: s.restarts,
        since_unix_ms: s.since_unix_ms,
        hangs: s.hangs,
    }
}

fn service_processes(s: socket::ServiceProcesses) -> api::ServiceProcesses {
    let processes = s.processes.into_iter().map(|p| api::Process {
        pid: p.pid,
        command: p.command,
        pss_bytes: p.pss_bytes,
        rss_bytes: p.rss_bytes,
        cpu_seconds: p.cpu_seconds,
        threads: p.threads,
    });
    api::ServiceProcesses { service: s.service, cpu_seconds: s.cpu_seconds, processes: processes.collect() }
}

fn condition(c: socket::Condition) -> api::Condition {
    api::Condition {
        name: c.name,
        ok: c.ok,
        reason: c.reason,
        message: c.message,
        since_unix_ms: c.since_unix_ms,
        reporter: c.reporter,
    }
}
