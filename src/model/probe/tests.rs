use super::*;

fn ports(name: &str) -> Option<u16> {
    (name == "web").then_some(8080)
}

fn probe(kind: ProbeKind, json: &str) -> Result<Probe, Problems> {
    parse_probe(json, kind, &ports)
}

fn problem(kind: ProbeKind, json: &str) -> (String, String) {
    let problems = probe(kind, json).unwrap_err();
    assert_eq!(problems.len(), 1, "{json}: {problems:?}");
    problems[0].clone()
}

use ProbeKind::{Liveness, Readiness, Startup};

#[test]
fn defaults_are_timeout_1_period_10_success_1_failure_3_delay_0() {
    let probe = probe(Readiness, r#"{"tcpSocket": {"port": 80}}"#).unwrap();
    let expected = Probe {
        check: Check::Tcp(Endpoint { host: None, port: 80 }),
        from: ProbeFrom::Pod,
        initial_delay_s: 0,
        period_ms: 10_000,
        timeout_ms: 1000,
        success_threshold: 1,
        failure_threshold: 3,
        grace_s: None,
    };
    assert_eq!(probe, expected);
}

#[test]
fn a_zero_and_a_null_stand_for_the_default() {
    let zeros = r#"{"tcpSocket": {"port": 80, "host": ""}, "exec": null, "periodSeconds": 0, "timeoutSeconds": null,
        "successThreshold": 0, "failureThreshold": 0, "initialDelaySeconds": 0, "probeFrom": null}"#;
    assert_eq!(
        probe(Liveness, zeros).unwrap(),
        probe(Liveness, r#"{"tcpSocket": {"port": 80}}"#).unwrap()
    );
}

#[test]
fn defaults_of_http_are_path_slash_and_scheme_http() {
    let Check::Http(http) = probe(Liveness, r#"{"httpGet": {"port": "web"}}"#).unwrap().check else {
        panic!("no http")
    };
    assert_eq!((http.path.as_str(), http.https, http.at.port), ("/", false, 8080));
    assert_eq!(http.at.host, None);
}

#[test]
fn the_default_service_of_grpc_is_the_empty_string() {
    let Check::Grpc { at, service } = probe(Liveness, r#"{"grpc": {"port": 9090}}"#).unwrap().check else {
        panic!("no grpc")
    };
    assert_eq!((at.port, service.as_str(), at.host), (9090, "", None));
}

#[test]
fn success_threshold_must_be_1_for_liveness_and_startup() {
    let json = r#"{"tcpSocket": {"port": 80}, "successThreshold": 2}"#;
    for kind in [Liveness, Startup] {
        assert_eq!(problem(kind, json).0, "successThreshold");
    }
    assert_eq!(probe(Readiness, json).unwrap().success_threshold, 2);
}

#[test]
fn a_probes_own_grace_is_at_least_1_and_not_allowed_on_readiness() {
    let json = |seconds: i64| format!(r#"{{"tcpSocket": {{"port": 80}}, "terminationGracePeriodSeconds": {seconds}}}"#);
    for seconds in [0, -1] {
        assert_eq!(problem(Liveness, &json(seconds)).0, "terminationGracePeriodSeconds");
    }
    assert_eq!(problem(Readiness, &json(5)).0, "terminationGracePeriodSeconds");
    assert_eq!(probe(Startup, &json(1)).unwrap().grace_s, Some(1));
}

#[test]
fn exactly_one_handler_is_wanted() {
    let (path, reason) = problem(Liveness, "{}");
    assert_eq!(
        (path.as_str(), reason.as_str()),
        ("", "needs a handler: exec, httpGet, tcpSocket or grpc")
    );
    let two = r#"{"tcpSocket": {"port": 80}, "grpc": {"port": 80}}"#;
    assert!(problem(Liveness, two).1.starts_with("may have only one handler"));
    assert!(
        parse_hook("{}", &ports).unwrap_err()[0]
            .1
            .starts_with("needs a handler")
    );
}

#[test]
fn every_wrong_value_is_refused_by_the_name_of_its_field() {
    for (json, field) in [
        (r#"{"tcpSocket": {"port": 0}}"#, "tcpSocket.port"),
        (r#"{"tcpSocket": {"port": 65536}}"#, "tcpSocket.port"),
        (r#"{"tcpSocket": {"port": "db"}}"#, "tcpSocket.port"),
        (r#"{"tcpSocket": {"port": "80"}}"#, "tcpSocket.port"),
        (r#"{"tcpSocket": {"port": true}}"#, "tcpSocket.port"),
        (r#"{"tcpSocket": {}}"#, "tcpSocket.port"),
        (r#"{"tcpSocket": {"port": 80, "host": "a b"}}"#, "tcpSocket.host"),
        (r#"{"grpc": {"port": "web"}}"#, "grpc.port"),
        (r#"{"grpc": {}}"#, "grpc.port"),
        (r#"{"exec": {}}"#, "exec.command"),
        (r#"{"exec": {"command": []}}"#, "exec.command"),
        (r#"{"exec": {"command": "true"}}"#, "exec.command"),
        (r#"{"httpGet": {"port": 80, "scheme": "http"}}"#, "httpGet.scheme"),
        (r#"{"httpGet": {"port": 80, "host": "a/b"}}"#, "httpGet.host"),
        (
            r#"{"httpGet": {"port": 80, "httpHeaders": [{"name": "a b", "value": "c"}]}}"#,
            "httpGet.httpHeaders[0].name",
        ),
        (
            r#"{"httpGet": {"port": 80, "httpHeaders": [{"name": "a", "value": "b\nc"}]}}"#,
            "httpGet.httpHeaders[0].value",
        ),
        (
            r#"{"httpGet": {"port": 80, "httpHeaders": [{"name": "Host", "value": "a/b"}]}}"#,
            "httpGet.httpHeaders[0].value",
        ),
        (r#"{"tcpSocket": {"port": 80}, "periodSeconds": -1}"#, "periodSeconds"),
        (r#"{"tcpSocket": {"port": 80}, "timeoutSeconds": -1}"#, "timeoutSeconds"),
        (
            r#"{"tcpSocket": {"port": 80}, "failureThreshold": -1}"#,
            "failureThreshold",
        ),
        (
            r#"{"tcpSocket": {"port": 80}, "initialDelaySeconds": -1}"#,
            "initialDelaySeconds",
        ),
        (
            r#"{"tcpSocket": {"port": 80}, "initialDelaySeconds": 1.5}"#,
            "initialDelaySeconds",
        ),
        (
            r#"{"tcpSocket": {"port": 80}, "periodSeconds": 3000000000}"#,
            "periodSeconds",
        ),
        (
            r#"{"tcpSocket": {"port": 80}, "periodMilliseconds": 9}"#,
            "periodMilliseconds",
        ),
        (
            r#"{"tcpSocket": {"port": 80}, "timeoutMilliseconds": 0}"#,
            "timeoutMilliseconds",
        ),
        (r#"{"tcpSocket": {"port": 80}, "probeFrom": "node"}"#, "probeFrom"),
        (r#"{"exec": {"command": ["true"]}, "probeFrom": "pod"}"#, "probeFrom"),
    ] {
        let (path, reason) = problem(Liveness, json);
        assert_eq!(path, field, "{json}: {reason}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let problems = probe(
        Liveness,
        r#"{"grpc": {"port": 0}, "periodSeconds": -1, "successThreshold": 3}"#,
    )
    .unwrap_err();
    let fields: Vec<_> = problems.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(fields, ["periodSeconds", "successThreshold", "grpc.port"]);
}

#[test]
fn an_unknown_field_is_refused_by_name() {
    for (json, field) in [
        (r#"{"httpGet": {"port": 80}, "periodSecond": 1}"#, "periodSecond"),
        (r#"{"httpGet": {"port": 80, "paht": "/"}}"#, "httpGet.paht"),
        (
            r#"{"httpGet": {"port": 80, "httpHeaders": [{"name": "a", "val": "b"}]}}"#,
            "httpGet.httpHeaders[0].val",
        ),
    ] {
        let (path, reason) = problem(Liveness, json);
        assert_eq!(path, field, "{reason}");
        assert!(reason.contains("unknown field"), "{reason}");
    }
}

#[test]
fn what_is_no_json_is_refused() {
    for json in ["", "{", "[]", r#"{"tcpSocket": {"port": 80}} more"#] {
        assert!(probe(Liveness, json).is_err(), "{json}");
    }
}

#[test]
fn milliseconds_win_over_seconds() {
    let probe = probe(
        Readiness,
        r#"{"tcpSocket": {"port": 80}, "periodSeconds": 1, "periodMilliseconds": 250, "timeoutMilliseconds": 1500}"#,
    );
    let probe = probe.unwrap();
    assert_eq!((probe.period_ms, probe.timeout_ms), (250, 1500));
}

#[test]
fn the_extension_fields_say_where_a_probe_stands_and_what_host_grpc_asks() {
    let probe = probe(
        Readiness,
        r#"{"grpc": {"port": 1, "host": "localhost"}, "probeFrom": "host"}"#,
    )
    .unwrap();
    assert_eq!(probe.from, ProbeFrom::Host);
    assert!(matches!(probe.check, Check::Grpc { at, .. } if at.host.as_deref() == Some("localhost")));
}

#[test]
fn a_path_is_written_as_a_request_needs_it() {
    for (path, expected) in [
        ("", "/"),
        ("livez", "/livez"),
        ("/a?b=c&d", "/a?b=c&d"),
        ("/a#b", "/a"),
        ("/a b", "/a%20b"),
        ("/%20", "/%20"),
        ("/50%?x", "/50%25%3Fx"),
        ("/ä", "/%C3%A4"),
    ] {
        let json = serde_json::json!({"httpGet": {"port": 80, "path": path}}).to_string();
        let Check::Http(http) = probe(Liveness, &json).unwrap().check else {
            panic!("no http")
        };
        assert_eq!(http.path, expected);
    }
}

#[test]
fn a_hook_has_exec_http_tcp_and_sleep() {
    let hook = |json: &str| parse_hook(json, &ports);
    assert_eq!(hook(r#"{"sleep": {"seconds": 0}}"#), Ok(Hook::Sleep { seconds: 0 }));
    assert_eq!(
        hook(r#"{"exec": {"command": ["a"]}}"#),
        Ok(Hook::Exec {
            command: vec!["a".into()]
        })
    );
    let at = Endpoint {
        host: Some("::1".into()),
        port: 8080,
    };
    assert_eq!(
        hook(r#"{"tcpSocket": {"port": "web", "host": "[::1]"}}"#),
        Ok(Hook::Tcp(at))
    );
    assert!(matches!(hook(r#"{"httpGet": {"port": 1}}"#), Ok(Hook::Http(_))));
    for (json, field) in [
        (r#"{"sleep": {"seconds": -1}}"#, "sleep.seconds"),
        (r#"{"sleep": {}}"#, "sleep.seconds"),
        (r#"{"grpc": {"port": 1}}"#, "grpc"),
        (r#"{"httpGet": {"port": 70000}}"#, "httpGet.port"),
    ] {
        assert_eq!(hook(json).unwrap_err()[0].0, field);
    }
}

#[test]
fn hooks_are_named_from_where_they_stand() {
    let wire = serde_json::from_str(r#"{"postStart": {"sleep": {"seconds": 1}}, "preStop": {"exec": {}}}"#).unwrap();
    let problems = check_hooks("containers[0].lifecycle", wire, &ports).unwrap_err();
    assert_eq!(problems[0].0, "containers[0].lifecycle.preStop.exec.command");
    let wire = serde_json::from_str(r#"{"postStart": {"sleep": {"seconds": 1}}}"#).unwrap();
    let hooks = check_hooks("", wire, &ports).unwrap();
    assert_eq!(
        (hooks.post_start, hooks.pre_stop),
        (Some(Hook::Sleep { seconds: 1 }), None)
    );
}

#[test]
fn a_probe_is_described_as_kubectl_does() {
    for (json, expected) in [
        (
            r#"{"exec": {"command": ["/bin/sh", "-c", "true"]}, "initialDelaySeconds": 5, "periodSeconds": 5}"#,
            "exec [/bin/sh -c true] delay=5s timeout=1s period=5s #success=1 #failure=3",
        ),
        (
            r#"{"httpGet": {"port": 80, "path": "/livez"}, "periodMilliseconds": 500}"#,
            "http-get http://:80/livez delay=0s timeout=1s period=500ms #success=1 #failure=3",
        ),
        (
            r#"{"httpGet": {"port": 80, "host": "::1", "scheme": "HTTPS"}}"#,
            "http-get https://[::1]:80/ delay=0s timeout=1s period=10s #success=1 #failure=3",
        ),
        (
            r#"{"tcpSocket": {"port": "web"}}"#,
            "tcp-socket :8080 delay=0s timeout=1s period=10s #success=1 #failure=3",
        ),
        (
            r#"{"grpc": {"port": 9090, "service": "x"}, "timeoutMilliseconds": 1500}"#,
            "grpc <pod>:9090 x delay=0s timeout=1500ms period=10s #success=1 #failure=3",
        ),
    ] {
        assert_eq!(probe(Liveness, json).unwrap().to_string(), expected);
    }
}
