use super::*;
use std::io::Write;

fn from_file(text: &str) -> (tempfile::NamedTempFile, Sources) {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
    (file, sources)
}

fn from_environment(variables: &[(&str, &str)]) -> Sources {
    let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { environment, ..Sources::default() }
}

fn refused(sources: &Sources) -> String {
    let sentence = sources.load().expect_err("refused").to_string();
    assert!(!sentence.contains('\n'), "more than a sentence: {sentence}");
    sentence
}

#[test]
fn no_settings_at_all_are_the_defaults() {
    let config = Sources::default().load().expect("a configuration");
    assert_eq!(serde_json::to_value(&config).expect("JSON"), show::defaults());
}

#[test]
fn flags_go_over_environment_over_file() {
    let (_file, mut sources) =
        from_file("data_dir = \"of-file\"\n[api]\nlisten = \"127.0.0.1:1\"\n[log]\nfilter = \"warn\"");
    sources.environment = vec![
        ("MOORING_LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
        ("MOORING_LOG__FILTER".to_owned(), "debug".to_owned()),
    ];
    sources.flags = vec![Flag { name: "--listen", key: "api.listen", value: "127.0.0.1:3".to_owned() }];

    let config = sources.load().expect("a configuration");

    assert_eq!(config.data_dir, Path::new("of-file"));
    assert_eq!(config.log.filter, "debug");
    assert_eq!(config.api.listen.port(), 3);
    let shown = show(&sources).expect("shown");
    assert!(shown.contains("# from flag --listen"), "{shown}");
    assert!(shown.contains("# from environment variable MOORING_LOG__FILTER"), "{shown}");
    assert!(shown.contains("# from file "), "{shown}");
}

#[test]
fn a_wrong_value_names_key_value_and_what_was_expected() {
    let sentence = refused(&from_environment(&[("MOORING_LISTEN", "everywhere")]));
    for part in ["api.listen", "everywhere", "MOORING_LISTEN", "\"127.0.0.1:8080\""] {
        assert!(sentence.contains(part), "{part} is missing in: {sentence}");
    }
    let sentence = refused(&from_environment(&[("MOORING_LOG_FORMAT", "xml")]));
    assert!(sentence.contains("log.format is \"xml\"") && sentence.contains("\"human\" or \"json\""), "{sentence}");
    let sentence = refused(&from_environment(&[("MOORING_DATABASE_URL", "mysql://root:hunter2@db/x")]));
    assert!(sentence.contains("storage.database_url") && sentence.contains("postgres://"), "{sentence}");
    assert!(!sentence.contains("hunter2"), "{sentence}");
}

#[test]
fn a_wrong_duration_names_its_key_and_unit() {
    let (_file, sources) = from_file("[storage]\nquery_timeout = \"fast\"");
    let sentence = refused(&sources);
    assert!(sentence.contains("storage.query_timeout") && sentence.contains("\"30s\""), "{sentence}");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let (_file, sources) = from_file("[api]\nlisen = \"127.0.0.1:1\"");
    let sentence = refused(&sources);
    assert!(
        sentence.contains("unknown setting api.lisen") && sentence.contains("did you mean api.listen?"),
        "{sentence}"
    );

    let (_file, sources) = from_file("listen = \"127.0.0.1:1\"");
    assert!(refused(&sources).contains("did you mean api.listen?"));

    let sentence = refused(&from_environment(&[("MOORING_LISTN", "127.0.0.1:1")]));
    assert!(sentence.contains("did you mean MOORING_LISTEN?"), "{sentence}");
}

#[test]
fn a_broken_or_missing_file_is_one_sentence() {
    let (_file, sources) = from_file("[api\n");
    assert!(refused(&sources).contains("line 1"));
    let missing = Sources { file: Some("/nowhere/hub.toml".into()), ..Sources::default() };
    assert!(refused(&missing).contains("/nowhere/hub.toml"));
}

#[test]
fn one_half_of_tls_is_refused() {
    let sentence = refused(&from_environment(&[("MOORING_TLS_CERT", "/etc/hosts")]));
    assert!(sentence.contains("api.tls_key"), "{sentence}");
}

#[test]
fn objects_over_plain_http_are_refused_unless_stated() {
    let s3 = [
        ("MOORING_OBJECTS_URL", "s3://recordings"),
        ("MOORING_OBJECTS_ENDPOINT", "http://minio.example:9000"),
        ("MOORING_OBJECTS_ACCESS_KEY", "mooring"),
        ("MOORING_OBJECTS_SECRET_KEY", "hunter2"),
    ];
    let sentence = refused(&from_environment(&s3));
    assert!(sentence.contains("storage.objects_endpoint") && sentence.contains("objects_allow_http"), "{sentence}");
    let stated = [&s3[..], &[("MOORING_STORAGE__OBJECTS_ALLOW_HTTP", "true")]].concat();
    assert!(from_environment(&stated).load().is_ok());

    let sentence = refused(&from_environment(&s3[..3]));
    assert!(sentence.contains("storage.objects_secret_key") && !sentence.contains("hunter2"), "{sentence}");
}

#[test]
fn secrets_are_masked_when_shown() {
    let sources = from_environment(&[
        ("MOORING_METRICS_TOKEN", "12345"),
        ("MOORING_DATABASE_URL", "postgres://hub:hunter2@db/mooring"),
        ("MOORING_OBJECTS_URL", "s3://recordings"),
        ("MOORING_OBJECTS_ACCESS_KEY", "mooring"),
        ("MOORING_OBJECTS_SECRET_KEY", "hunter2"),
    ]);
    let shown = show(&sources).expect("shown");
    assert!(shown.contains("objects_secret_key = \"***\""), "{shown}");
    assert!(!shown.contains("12345") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn lists_in_the_environment_are_separated_by_commas() {
    let sources = from_environment(&[("MOORING_API__ALLOWED_HOSTS", "a.example, b.example")]);
    assert_eq!(sources.load().expect("a configuration").api.allowed_hosts, ["a.example", "b.example"]);
}

#[test]
fn an_embedded_database_and_objects_live_in_the_data_directory() {
    let directory = Path::new("/var/lib/mooring");
    assert_eq!(in_directory("sqlite:", "sqlite:hub.db", directory), "sqlite:/var/lib/mooring/hub.db");
    assert_eq!(in_directory("sqlite:", "sqlite:/srv/hub.db", directory), "sqlite:/srv/hub.db");
    assert_eq!(in_directory("sqlite:", "sqlite::memory:", directory), "sqlite::memory:");
    assert_eq!(in_directory("sqlite:", "postgres://db/hub", directory), "postgres://db/hub");
    assert_eq!(in_directory("file:", "file:objects", directory), "file:/var/lib/mooring/objects");
    assert_eq!(in_directory("file:", "file:///srv/objects", directory), "file:///srv/objects");
    assert_eq!(in_directory("file:", "s3://bucket/prefix", directory), "s3://bucket/prefix");
}

#[test]
fn the_example_file_holds_every_setting_at_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("hub.example.toml");
    let sources = Sources { file: Some(path.clone()), ..Sources::default() };
    let config = sources.load().expect("the example can be loaded");
    assert_eq!(serde_json::to_value(&config).expect("JSON"), show::defaults());

    let text = std::fs::read_to_string(path).expect("the example");
    let merged = sources.merged().expect("merged");
    for key in show::keys() {
        if show::default_of(&key) == Some(serde_json::Value::Null) {
            // What is not set by default stands there as a comment, in its section.
            let (section, name) = key.rsplit_once('.').unwrap_or(("", &key));
            let lines = text.split(&format!("[{section}]\n")).nth(1).unwrap_or_default();
            let lines = lines.split("\n[").next().unwrap_or_default();
            assert!(lines.contains(&format!("# {name} = ")), "the example lacks {key}");
        } else {
            assert!(merged.contains(&key), "the example lacks {key}");
        }
    }
}
