//! Writes a fleet as statements for Postgres, which makes it faster than devices could join.
//!
//! Only documents are written, as a hub wrote them before there were searches; the next hub that starts on the database
//! derives the rest. Devices have no keys, so none of them can connect.

use std::io::Write;

/// Devices in one statement.
const AT_ONCE: u32 = 20_000;

/// Write statements that fill a Postgres database, prepared by `mooring migrate`, with devices of 20 attributes each
#[derive(Debug, clap::Args)]
pub struct Fill {
    /// How many devices the fleet shall have
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    devices: u32,
}

impl Fill {
    /// Writes the statements to standard output.
    ///
    /// # Errors
    /// When nobody reads them.
    pub fn run(&self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\\set ON_ERROR_STOP on\nBEGIN;\nDELETE FROM inventory;\nDELETE FROM devices;")?;
        for table in ["inventory_terms", "inventory_text", "inventory_attributes", "inventory_counts"] {
            writeln!(out, "DELETE FROM {table};")?;
        }
        for first in (0..self.devices).step_by(AT_ONCE as usize) {
            let last = first.saturating_add(AT_ONCE).min(self.devices) - 1;
            for statement in [DEVICES, DOCUMENTS] {
                let statement = statement.replace("$1", &first.to_string()).replace("$2", &last.to_string());
                writeln!(out, "{};", statement.trim())?;
            }
        }
        writeln!(out, "{COUNTS};\nCOMMIT;\nVACUUM ANALYZE;")?;
        Ok(())
    }
}

/// One device in twenty waits for a decision. Times are spread over the last thirty days.
const DEVICES: &str = r#"
INSERT INTO devices (id, identity, identity_hash, status, decommissioning, created_at, updated_at, checked_in_at, revision)
SELECT md5('load ' || n)::uuid, identity, sha256(convert_to(identity, 'UTF8')),
       CASE WHEN n % 20 = 0 THEN 'pending' ELSE 'accepted' END, FALSE, created, created,
       CASE WHEN n % 20 = 0 THEN NULL ELSE now - (n * 7919 % 2592000) * 1000000 END, 1
FROM (SELECT n, '{"mac":"' || md5('mac ' || n) || '"}' AS identity,
             (EXTRACT(EPOCH FROM now()) * 1000000)::bigint AS now,
             (EXTRACT(EPOCH FROM now()) * 1000000)::bigint - 2592000000000 AS created
      FROM generate_series($1::bigint, $2::bigint) AS n) AS made
"#;

const DOCUMENTS: &str = r#"
INSERT INTO inventory (device, document, reported_at, revision)
SELECT md5('load ' || n)::uuid, jsonb_build_object(
    'identity', jsonb_build_object(
        'status', jsonb_build_object('value', CASE WHEN n % 20 = 0 THEN 'pending' ELSE 'accepted' END),
        'mac', jsonb_build_object('value', md5('mac ' || n))),
    'system', jsonb_build_object('created_ts', jsonb_build_object('value', '2031-05-01T00:00:00.000Z'))
        || CASE WHEN n % 5 = 0 THEN '{}'::jsonb
           ELSE jsonb_build_object('group', jsonb_build_object('value', 'group-' || n % 1000)) END,
    'tags', jsonb_build_object('name', jsonb_build_object('value', 'Device ' || n)),
    'inventory', jsonb_build_object(
        'device_type', jsonb_build_object('value', 'type-' || n % 20),
        'artifact_name', jsonb_build_object('value', 'release-' || n % 100),
        'rootfs-image.version', jsonb_build_object('value', 'v' || n % 50 || '.' || n % 7),
        'kernel', jsonb_build_object('value', 'Linux 6.' || n % 200),
        'os', jsonb_build_object('value', 'distribution ' || n % 5),
        'hostname', jsonb_build_object('value', 'host-' || n),
        'cpu_model', jsonb_build_object('value', 'cpu ' || n % 10),
        'mem_total_kB', jsonb_build_object('value', (n % 50 * 1024)::text),
        'serial', jsonb_build_object('value', n),
        'floor', jsonb_build_object('value', n % 100),
        'site', jsonb_build_object('value', 'site ' || n % 10000),
        'ipv4_eth0', jsonb_build_object('value', '10.' || n / 65536 % 256 || '.' || n / 256 % 256 || '.' || n % 256)
    ) || jsonb_build_object(
        'mac_eth0', jsonb_build_object('value', md5('mac ' || n)),
        'network_interfaces', jsonb_build_object('value', '["eth0", "wlan0"]'::jsonb),
        'mender_client_version', jsonb_build_object('value', '5.0.' || n % 4),
        'rootfs_type', jsonb_build_object('value', 'ext4'),
        'uptime', jsonb_build_object('value', n % 100000)
    )),
    (EXTRACT(EPOCH FROM now()) * 1000)::bigint * 1000, 1
FROM generate_series($1::bigint, $2::bigint) AS n
"#;

const COUNTS: &str = "UPDATE fleet SET accepted = (SELECT COUNT(*) FROM devices WHERE status = 'accepted'), \
     pending = (SELECT COUNT(*) FROM devices WHERE status = 'pending')";
