//! `pintle processes`.
use anyhow::Result;
use ctl::client::Client;
use machine::api;
use serde_json::json;

use crate::cli_errors::explain;
use crate::cli_rows::Rows;

/// The table is for people; JSON has bytes and each service's whole processor time.
pub async fn processes(client: &mut Client, node: &str, rows: &mut Rows) -> Result<()> {
    let list = client.processes(api::ProcessesRequest {}).await.map_err(explain)?.into_inner();
    rows.headings = &["NODE", "SERVICE", "PID", "COMMAND", "PSS", "RSS", "CPU", "THREADS"];
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    for service in list.services {
        for p in &service.processes {
            let cells = [
                node.to_owned(),
                service.service.clone(),
                p.pid.to_string(),
                p.command.clone(),
                mib(p.pss_bytes),
                mib(p.rss_bytes),
                format!("{:.2} s", p.cpu_seconds),
                p.threads.to_string(),
            ];
            rows.rows.push(cells.to_vec());
        }
        let processes = service.processes.iter().map(|p| {
            json!({"pid": p.pid, "command": p.command, "pssBytes": p.pss_bytes, "rssBytes": p.rss_bytes,
                "cpuSeconds": p.cpu_seconds, "threads": p.threads})
        });
        rows.json.push(json!({"node": node, "service": service.service, "cpuSeconds": service.cpu_seconds,
            "processes": processes.collect::<Vec<_>>()}));
    }
    Ok(())
}
