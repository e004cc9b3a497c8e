//! Which token a path calls for: the outer wall, decided before any handler is looked for.
//!
//! A path that starts like one of ours asks for its token first, whether or not something is served there, so that
//! nobody without a token can tell one from the other. (Mender API: routing rules of the gateway.)

/// What a request needs before it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Public,
    /// A device's token.
    Device,
    /// A user's token.
    User,
    /// The token of the internal API, if one is set.
    Internal,
    /// Nothing is served here, whoever asks.
    Nowhere,
}

/// Whether answers may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// When the client takes it and the body is worth it.
    Allowed,
    /// Never: the content is compressed already, and clients resume at byte offsets.
    Never,
}

struct Rule {
    path: &'static str,
    access: Access,
    compression: Compression,
}

const fn rule(path: &'static str, access: Access) -> Rule {
    Rule { path, access, compression: Compression::Allowed }
}

/// Longest first; the first match wins. A `*` stands for a version: `v` and then digits or lower-case letters.
/// Everything below `/api` that matches none of these is nowhere: the parts that only other editions have among them
/// (`tenantadm`, `auditlogs`), for which the web UI needs a 404 even with a token, and `internal`.
const RULES: &[Rule] = &[
    Rule { path: "api/devices/*/deployments/download", access: Access::Public, compression: Compression::Never },
    rule("api/management/*/useradm/auth/logout", Access::User),
    rule("api/management/*/useradm/auth", Access::Public),
    rule("api/management/*/useradm/oauth2", Access::Public),
    rule("api/management/*/useradm/oidc", Access::Public),
    rule("api/devices/*/authentication", Access::Public),
    rule("api/devices/*/deployments", Access::Device),
    rule("api/devices/*/inventory", Access::Device),
    rule("api/devices/*/deviceconfig", Access::Device),
    rule("api/devices/*/deviceconnect", Access::Device),
    rule("api/devices/*/devicemonitor", Access::Device),
    rule("api/management/*/useradm", Access::User),
    rule("api/management/*/devauth", Access::User),
    rule("api/management/*/deployments", Access::User),
    rule("api/management/*/inventory", Access::User),
    rule("api/management/*/deviceconfig", Access::User),
    rule("api/management/*/deviceconnect", Access::User),
    rule("api/management/*/devicemonitor", Access::User),
    rule("api/management/*/iot-manager", Access::User),
    rule("api/management/*/reporting", Access::User),
    rule("api/management/v1/mooring", Access::User),
    rule("api", Access::Nowhere),
    rule("", Access::Public),
];

/// What this path calls for.
pub fn access(path: &str) -> Access {
    find(path).access
}

/// What this path calls for on the listener of the internal API, where nothing else is served.
pub fn internal_access(path: &str) -> Access {
    let Some(inner) = path.trim_start_matches('/').strip_prefix("api/internal/") else { return Access::Nowhere };
    let mut parts = inner.splitn(3, '/');
    let (Some(version), Some(service), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return Access::Nowhere;
    };
    match (version, service, rest) {
        // They give nothing away, and whoever watches a process holds no secrets. Where a token is verified, the header
        // holds that one, and the answer is what the other listener would say.
        (
            "v1",
            "deviceconnect" | "devauth" | "useradm" | "inventory" | "reporting" | "deviceconfig" | "devicemonitor"
            | "deployments",
            "alive" | "health",
        )
        | ("v1", "devauth", "tokens/verify")
        | ("v1", "useradm", "auth/verify") => Access::Public,
        (
            "v1",
            "deviceconnect" | "devauth" | "useradm" | "inventory" | "reporting" | "deviceconfig" | "devicemonitor"
            | "deployments",
            _,
        )
        | ("v2", "inventory", _) => Access::Internal,
        _ => Access::Nowhere,
    }
}

/// Whether answers at this path may be compressed.
pub fn compression(path: &str) -> Compression {
    find(path).compression
}

fn find(path: &str) -> &'static Rule {
    let path = path.strip_prefix('/').unwrap_or(path);
    RULES.iter().find(|rule| matches(rule.path, path)).expect("the last rule matches every path")
}

/// Whether `path` is `pattern` or below it.
fn matches(pattern: &str, path: &str) -> bool {
    if pattern.is_empty() {
        return true;
    }
    let mut segments = path.split('/');
    pattern.split('/').all(|wanted| {
        segments.next().is_some_and(|found| if wanted == "*" { is_version(found) } else { wanted == found })
    })
}

fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_asks_for_its_own_token() {
        use Access::{Device, Nowhere, Public, User};
        for (path, wanted) in [
            ("/api/devices/v1/authentication/auth_requests", Public),
            ("/api/devices/v1/deployments/download/configuration/x", Public),
            ("/api/devices/v2/deployments/device/deployments/next", Device),
            ("/api/devices/v1/inventory/device/attributes", Device),
            ("/api/devices/v1/deviceconfig/configuration", Device),
            ("/api/devices/v1/deviceconnect/connect", Device),
            ("/api/devices/v1/devicemonitor/alert", Device),
            ("/api/management/v1/useradm/auth/login", Public),
            ("/api/management/v1/useradm/auth/logout", User),
            ("/api/management/v1/useradm/oauth2/x", Public),
            ("/api/management/v1/useradm/oidc/x", Public),
            ("/api/management/v1/useradm/users/me", User),
            ("/api/management/v1/useradm/authority", User),
            ("/api/management/v2/devauth/devices", User),
            ("/api/management/v2alpha1/inventory/x", User),
            ("/api/management/v1/deployments/artifacts", User),
            ("/api/management/v1/deviceconfig/configurations/device/x", User),
            ("/api/management/v1/deviceconnect/devices/x/connect", User),
            ("/api/management/v1/iot-manager/integrations", User),
            ("/api/management/v1/reporting/devices/search", User),
            ("/api/management/v1/mooring/events", User),
            ("/api/management/v2/tenantadm/tenants/me", Nowhere),
            ("/api/management/v1/auditlogs/logs", Nowhere),
            ("/api/internal/v1/devauth/tokens/verify", Nowhere),
            ("/api/unknown", Nowhere),
            ("/api", Nowhere),
            ("/ui/", Public),
            ("/health/live", Public),
        ] {
            assert_eq!(access(path), wanted, "{path}");
        }
    }

    #[test]
    fn rules_are_anchored_at_the_start_and_at_whole_segments() {
        assert_eq!(access("/x/api/management/v1/useradm/auth/login"), Access::Public);
        assert_eq!(access("/api/internal/api/management/v1/useradm/auth/login"), Access::Nowhere);
        assert_eq!(access("/api/management/v2/devauthx"), Access::Nowhere);
        assert_eq!(access("/api/management/2/devauth"), Access::Nowhere);
        assert_eq!(access("/api/management/v/devauth"), Access::Nowhere);
        assert_eq!(access("/api/management/V1/devauth"), Access::Nowhere);
        assert_eq!(access("/API/management/v1/devauth"), Access::Public);
    }

    #[test]
    fn no_rule_hides_a_longer_one() {
        for (place, rule) in RULES.iter().enumerate() {
            let sample = rule.path.replace('*', "v1");
            for later in &RULES[place + 1..] {
                assert!(
                    !matches(rule.path, &later.path.replace('*', "v1")),
                    "{} hides {} ({sample})",
                    rule.path,
                    later.path
                );
            }
        }
    }

    #[test]
    fn the_internal_listener_serves_the_internal_api_alone() {
        for (path, wanted) in [
            ("/api/internal/v1/deviceconnect/alive", Access::Public),
            ("/api/internal/v1/deviceconnect/health", Access::Public),
            ("/api/internal/v1/deviceconnect/shutdown", Access::Internal),
            ("/api/internal/v1/deviceconnect/alive/x", Access::Internal),
            ("/api/internal/v1/deviceconnect/tenants//devices", Access::Internal),
            ("/api/internal/v1/deviceconfig/health", Access::Public),
            ("/api/internal/v1/deviceconfig/tenants//devices", Access::Internal),
            ("/api/internal/v1/devicemonitor/tenants//devices", Access::Internal),
            ("/api/internal/v1/deviceconnectx", Access::Nowhere),
            ("/api/internal/v1/devauth/health", Access::Public),
            ("/api/internal/v1/devauth/tokens/verify", Access::Public),
            ("/api/internal/v1/devauth/tokens", Access::Internal),
            ("/api/internal/v1/devauth/tenants//devices", Access::Internal),
            ("/api/internal/v1/useradm/auth/verify", Access::Public),
            ("/api/internal/v1/useradm/tenants//users", Access::Internal),
            ("/api/internal/v1/useradm", Access::Nowhere),
            ("/api/internal/v2/devauth/tokens", Access::Nowhere),
            ("/api/internal/v1/inventory/health", Access::Public),
            ("/api/internal/v2/inventory/tenants//filters/search", Access::Internal),
            ("/api/internal/v1/reporting/alive", Access::Public),
            ("/api/internal/v1/deployments/tenants", Access::Internal),
            ("/api/internal/v1/iot-manager/tenants", Access::Nowhere),
            ("/api/management/v2/devauth/devices", Access::Nowhere),
            ("/health/live", Access::Nowhere),
            ("/", Access::Nowhere),
        ] {
            assert_eq!(internal_access(path), wanted, "{path}");
        }
    }

    #[test]
    fn downloads_are_never_compressed() {
        assert_eq!(compression("/api/devices/v1/deployments/download/x"), Compression::Never);
        assert_eq!(compression("/api/devices/v1/deployments/device"), Compression::Allowed);
    }
}
