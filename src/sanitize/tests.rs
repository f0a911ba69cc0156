//! What is found and what is not, kind by kind; masks; texts in pieces. Keys are put together from parts: what looks like a real
//! one is no good in a repository.

use proptest::prelude::*;

use super::*;

fn found(text: &str, kinds: Kinds) -> Vec<(&'static str, &str)> {
    let mut spans = Vec::new();
    scan(text, kinds, &mut spans);
    spans
        .iter()
        .map(|span| (span.kind.name(), &text[span.start..span.end]))
        .collect()
}

fn masked(text: &str) -> String {
    mask_whole(text, Kinds::DEFAULT, &MaskKey::new(b"key").of("ann"))
}

#[track_caller]
fn is_found(text: &str, kind: Kind, what: &str) {
    assert_eq!(found(text, Kinds::all()), [(kind.name(), what)], "{text}");
}

#[track_caller]
fn is_clean(text: &str) {
    assert_eq!(found(text, Kinds::DEFAULT), [], "{text}");
}

#[test]
fn addresses() {
    for text in [
        "alice@example.com",
        "o'brien@example.co.uk",
        "a.b+c_d-e%f@mail.example.org",
        "josé@example.de",
        "x@y.museum",
    ] {
        is_found(text, Kind::Email, text);
        is_found(&format!("write to <{text}>."), Kind::Email, text);
        is_found(&format!("\n{text}\n"), Kind::Email, text);
    }
    is_found("'alice@example.com'", Kind::Email, "alice@example.com");
    is_found("联系bob@example.com吧", Kind::Email, "bob@example.com");
    for text in [
        "user@localhost",
        "@decorator.name",
        "a@b",
        "icon@2x.png",
        "git@github.com:a/b.git",
        "a @ b.com",
        "x.@example.com",
        "@example.com",
        "types/node@18.0.0",
        &format!("{}@example.com", "a".repeat(65)),
    ] {
        is_clean(text);
    }
}

#[test]
fn cards() {
    for number in [
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "5500000000000004",
        "2221000000000009",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
        "3530111333300000",
        "30569309025904",
        "3056 930902 5904",
        "6200000000000005",
        "4222222222222",
        "4111 1111 1111 1111",
    ] {
        is_found(number, Kind::Card, number);
        is_found(&format!("card no.{number}."), Kind::Card, number);
        is_found(&format!("({number})"), Kind::Card, number);
    }
    // Between other numbers.
    is_found("rows 12 4111 1111 1111 1111 7", Kind::Card, "4111 1111 1111 1111");
    is_found("4111 1111 1111 1111 123", Kind::Card, "4111 1111 1111 1111");
    is_found("12 4111111111111111 7", Kind::Card, "4111111111111111");
    for text in [
        "4111111111111112",
        "4111 1111 1111 1112",
        "0.4111111111111111",
        "3.4111111111111111e5",
        "-.4111111111111111",
        "4111111111111111.5",
        "x4111111111111111",
        "41111111111111110",
        "1234567890123456",
        "9999999999999995",
        "4111 1111-1111 1111",
        "411111111111",
        "a1b2-4111-1111-1111-1111",
        "2026-11-22 21:13:05.411111",
        "550e8400-e29b-41d4-a716-446655440000",
    ] {
        is_clean(text);
    }
}

#[test]
fn accounts() {
    for number in [
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "GB29NWBK60161331926819",
        "GB29 NWBK 6016 1331 9268 19",
        "FR1420041010050500013M02606",
        "NO9386011117947",
        "NO93 8601 1117 947",
        "MT84MALT011000012345MTLCAST001S",
        "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
        "LC55HEMM000100010012001200023015",
    ] {
        is_found(number, Kind::Iban, number);
        is_found(&format!("to {number}, please"), Kind::Iban, number);
    }
    for text in [
        "DE89370400440532013001",
        "DE8937040044053201300",
        "XX89370400440532013000",
        "XDE89370400440532013000",
        "de89370400440532013000",
    ] {
        is_clean(text);
    }
}

#[test]
fn social_security_numbers() {
    is_found("536-90-4399", Kind::Ssn, "536-90-4399");
    is_found("ssn 536 90 4399.", Kind::Ssn, "536 90 4399");
    is_found("7 536 90 4399 8", Kind::Ssn, "536 90 4399");
    is_found("rows 12 536-90-4399 7", Kind::Ssn, "536-90-4399");
    for text in [
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "536-00-4399",
        "536-90-0000",
        "078-05-1120",
        "536-90 4399",
        "1-536-90-4399",
        "536-90-4399-1",
        "53-690-4399",
        "x536-90-4399",
        "536-90-43991",
        "536904399",
    ] {
        is_clean(text);
    }
}

#[test]
fn networks_are_looked_for_on_demand() {
    for text in ["+49 30 901820", "+1 (212) 555-0123", "+442071838750"] {
        is_found(text, Kind::Phone, text);
        is_clean(text);
    }
    for text in [
        "192.0.2.1",
        "2001:db8::1",
        "::1",
        "fe80::1ff:fe23:4567:890a",
        "::ffff:192.0.2.128",
    ] {
        is_found(&format!("from {text}:"), Kind::Ip, text);
        is_clean(text);
    }
    for text in [
        "1.2.3.4.5",
        "256.1.1.1",
        "std::vector",
        "12:30:45",
        "a::b",
        "v1.2.3.4a",
        "+12",
        "1+4930901820123",
    ] {
        assert_eq!(found(text, Kinds::all()), [], "{text}");
    }
}

#[test]
fn json_web_tokens() {
    let (header, claims) = ("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", "eyJzdWIiOiIxMjM0NTY3ODkwIn0");
    for token in [
        format!("{header}.{claims}.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"),
        // Encrypted, with an empty key.
        "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..48V1_ALb6US04U3b.5eym8TW_c8SuK0ltJ3rpYIzOeDQz7TALvtu6UG9oMo4.XFBoMYUZodetZdvTiFvSkQ".to_owned(),
    ] {
        is_found(&token, Kind::Jwt, &token);
        is_found(&format!("jwt={token}; path=/"), Kind::Jwt, &token);
        is_found(&format!("It was {token}."), Kind::Jwt, &token);
        is_found(&format!("Authorization: Bearer {token}"), Kind::Jwt, &token);
    }
    is_clean(&format!("{header}.{claims}"));
    // No object, no algorithm, no base64.
    is_clean("eyJhbGci.eyJzdWIi.c2lnbmF0dXJl");
    is_clean("eyJ0eXAiOiJKV1QifQ.eyJzdWIiOiIxIn0.c2lnbmF0dXJl");
    is_clean("eye.movement.tracking_in_words");
}

#[test]
fn private_keys() {
    let line = "-----";
    for label in [
        "RSA PRIVATE KEY",
        "PRIVATE KEY",
        "EC PRIVATE KEY",
        "OPENSSH PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
        "PGP PRIVATE KEY BLOCK",
    ] {
        let key = format!("{line}BEGIN {label}{line}\nMIIEow+/aa==\nabc\n{line}END {label}{line}");
        is_found(&key, Kind::Pem, &key);
        is_found(&format!("a {key}\nb"), Kind::Pem, &key);
        let escaped = key.replace('\n', "\\n");
        is_found(&escaped, Kind::Pem, &escaped);
        // Cut off.
        let cut = &key[..key.len() - 20];
        assert!(!masked(cut).contains("MIIE"), "{cut}");
    }
    is_clean(&format!(
        "{line}BEGIN CERTIFICATE{line}\nMIIEow\n{line}END CERTIFICATE{line}"
    ));
    is_clean(&format!(
        "{line}BEGIN PUBLIC KEY{line}\nMIIEow\n{line}END PUBLIC KEY{line}"
    ));
}

#[test]
fn credentials_of_urls() {
    is_found(
        "postgres://ann:hunter2@db.example.com:5432/x",
        Kind::Credentials,
        "ann:hunter2",
    );
    is_found("redis://:secret@cache", Kind::Credentials, ":secret");
    is_found("amqp://ann:p@ss@host/", Kind::Credentials, "ann:p@ss");
    assert_eq!(
        found("https://ann:x@a.example and b@c.example", Kinds::DEFAULT).len(),
        2
    );
    for text in [
        "https://example.com:8080/@x",
        "ssh://git@host/path",
        "http://a:@b",
        "a:b@c",
        "://a:b@c",
    ] {
        is_clean(text);
    }
}

#[test]
fn bearers_and_what_stands_beside_a_secret_name() {
    is_found(
        "Authorization: Bearer abcdef0123456789",
        Kind::Bearer,
        "abcdef0123456789",
    );
    is_found("bearer abc/def+ghi012345==", Kind::Bearer, "abc/def+ghi012345==");
    is_clean("Bearer authentication-methods");
    is_clean("Bearer abc123");
    let random = "Zm9v8Kd2qLw0Xr7TbNc4";
    for text in [
        format!("api_key={random}"),
        format!("\"apiKey\": \"{random}\""),
        format!("TOKEN: {random}"),
        format!("client-secret => '{random}'"),
        format!("?access_token={random}&x=1"),
        format!("{{\\\"password\\\": \\\"{random}\\\"}}"),
        format!("db.password := {random}"),
    ] {
        is_found(&text, Kind::Secret, random);
    }
    for text in [
        format!("cache_key={random}"),
        format!("sha={random}"),
        format!("next_page_token={random}"),
        "token=aaaaaaaaaaaaaaaaaaaaaaaa".to_owned(),
        "password: the_password_of_the_user".to_owned(),
        format!("token {random}"),
        "secret=short1".to_owned(),
    ] {
        is_clean(&text);
    }
}

#[test]
fn keys_of_providers() {
    let a36 = "0123456789abcdefghijABCDEFGHIJ012345";
    for (kind, prefix, rest) in [
        (Kind::Aws, "AKIA", "IOSFODNN7EXAMPLE"),
        (Kind::Aws, "ASIA", "IOSFODNN7EXAMPLE"),
        (Kind::OpenAi, "sk-", "abcdefghijKLMNOPQRST0123456789"),
        (Kind::OpenAi, "sk-proj-", "abcdefghij_KLMNOPQRST-0123456789"),
        (Kind::Anthropic, "sk-ant-", "api03-abcdefghij_KLMNOPQRST-0123456789"),
        (Kind::GitHub, "ghp_", a36),
        (Kind::GitHub, "gho_", a36),
        (
            Kind::GitHub,
            "github_pat_",
            "11ABCDEFG0abcdefghijkl_0123456789abcdefghijABCDEFGHIJ0123456789abcdefghijABCDEFGHI",
        ),
        (Kind::GitLab, "glpat-", "abcdefghij0123456789"),
        (Kind::Google, "AIza", "Sy0123456789abcdefghijABCDEFGHIJ01-_x"),
        (Kind::Google, "ya29.", "a0AfH6SMBabcdefghij0123456789"),
        (Kind::Google, "GOCSPX-", "abcdefghij0123456789abcd"),
        (Kind::Slack, "xoxb-", "123456789012-123456789012-abcdefGHIJ"),
        (
            Kind::Slack,
            "hooks.slack.com/",
            "services/T00000000/B00000000/abcdefghijKLMNOPQRST0123",
        ),
        (Kind::Stripe, "sk_live_", "abcdefghij0123456789ABCD"),
        (Kind::Stripe, "rk_test_", "abcdefghij0123456789ABCD"),
        (Kind::Stripe, "whsec_", "abcdefghij0123456789ABCD"),
        (Kind::Npm, "npm_", a36),
        (
            Kind::Pypi,
            "pypi-Ag",
            "EIcHlwaS5vcmcCJDAxMjM0NTY3LTg5YWItY2RlZi0wMTIzLTQ1Njc4OWFi",
        ),
    ] {
        let key = format!("{prefix}{rest}");
        for text in [
            key.clone(),
            format!("x {key} y"),
            format!("\n{key}\n"),
            format!("\t\"{key}\""),
            format!("key:{key},"),
            format!("url?k={key}&y"),
            format!("é{key}é"),
            format!("({key})"),
        ] {
            is_found(&text, kind, &key);
        }
        is_clean(&format!("x{key}"));
        is_clean(&format!("_{key}"));
        is_clean(prefix);
        is_clean(&format!("{prefix}{}", &rest[..4]));
    }
    for text in [
        "task-analysis",
        "disk-usage",
        "risk-score report",
        "sk-this-is-a-hyphenated-name-of-something",
        "sk-learn",
        "desk-abcdefghijKLMNOPQRST0123456789",
        "sk-abcdefghijklmnopqrstuvwxyz",
        "AKIAIOSFODNN7EXAMPL",
        "AKIAIOSFODNN7EXAMPLEX",
        "npm_config_registry",
        "glpat-short",
        "pypi-server-with-a-name",
        "sk_live_configuration_variable",
        "github_pat_is_the_prefix_of_such_tokens_in_general_words",
    ] {
        is_clean(text);
    }
}

#[test]
fn words_of_ordinary_life_are_left_alone() {
    for text in [
        "important_notes",
        "executive_summary",
        "evaluation",
        "execution_id",
        "retrieval_k",
        "import_batch",
        "task-analysis",
        "disk-usage",
        "risk-score report",
        "The task-force reviewed the disk-usage of risk-weighted assets.",
        "run_0123456789abcdef0123456789abcdef",
        "2026-11-22T21:13:05.123456+00:00",
        "550e8400-e29b-41d4-a716-446655440000",
        "https://example.com/a/b?c=d#e",
        "/usr/lib/python3/x.py:120",
    ] {
        assert_eq!(masked(text), text);
        assert_eq!(rule_of(text), KeyRule::Plain, "{text}");
    }
}

#[test]
fn masks_tell_users_apart_and_are_kept() {
    let mask = |key: &MaskKey, user: &str| {
        mask_whole(
            "a@example.com, b@example.com, a@example.com",
            Kinds::DEFAULT,
            &key.of(user),
        )
    };
    let (key, other) = (MaskKey::new(b"one"), MaskKey::new(b"two"));
    let ann = mask(&key, "ann");
    let parts: Vec<&str> = ann.split(", ").collect();
    assert!(parts.iter().all(|part| is_mask(part)), "{ann}");
    assert!(parts[0] == parts[2] && parts[0] != parts[1]);
    assert_eq!(ann, mask(&key, "ann"));
    assert_ne!(ann, mask(&key, "bob"));
    assert_ne!(ann, mask(&other, "ann"));
    assert_eq!(masked(&ann), ann);
    // The value of a secret key, once more.
    let key = MaskKey::new(b"one");
    let once = mask_spans("hunter2", KeyRule::Secret, Kinds::DEFAULT, &key.of("ann"))
        .expect("a finding")
        .text;
    assert!(is_mask(&once));
    assert!(mask_spans(&once, KeyRule::Secret, Kinds::DEFAULT, &key.of("ann")).is_none());
    for text in [
        "[]",
        "[EMAIL:12]",
        "[email:0000]",
        "[EMAIL:00G0]",
        "EMAIL:0000",
        "[EMAIL:0000] ",
        "[:0000]",
    ] {
        assert!(!is_mask(text), "{text}");
    }
}

#[test]
fn long_texts_take_time_in_proportion() {
    // Each of them would take minutes if anything went back to the beginning.
    for part in [
        "x://a:b@c.de ",
        "alice@example.com ",
        "a@b.co:c@",
        "sk-proj-",
        "sk-ant-aaaa-",
        "eyJ-",
        "eyJhbGciOiJIUzI1NiJ9",
        "a@",
        "-----BEGIN PRIVATE KEY-----",
        "4111 ",
        "DE89 ",
        "://a:b@",
        "token=",
        "0123",
    ] {
        let text = part.repeat((1 << 18) / part.len());
        let mut spans = Vec::new();
        scan(&text, Kinds::all(), &mut spans);
        assert!(
            mask_spans(&text, KeyRule::Plain, Kinds::DEFAULT, &MaskKey::new(b"k").of("ann"))
                .is_none_or(|masked| !masked.found.is_empty())
        );
    }
}

/// Texts with something to find, in pieces.
fn pieces() -> impl Strategy<Value = (String, Vec<usize>)> {
    let part = prop_oneof![
        3 => "[a-zA-Z ,.]{0,20}",
        1 => "[0-9]{1,5}",
        1 => Just(" ".to_owned()),
        1 => "[ -~é漢]{0,10}",
        4 => prop_oneof![
            Just("4111 1111 1111 1111"), Just("DE89 3704 0044 0532 0130 00"), Just("536-90-4399"), Just("alice@example.com"),
            Just("redis://ann:secret@h"), Just("Bearer abcdef0123456789"), Just("api_key = \"Zm9v8Kd2qLw0Xr7TbNc4\""),
            Just("AKIAIOSFODNN7EXAMPLE"), Just("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"),
        ].prop_map(str::to_owned),
    ];
    (
        prop::collection::vec(part, 0..10),
        prop::collection::vec(1_usize..40, 1..30),
    )
        .prop_map(|(parts, sizes)| (parts.concat(), sizes))
}

fn in_pieces(text: &str, sizes: &[usize]) -> String {
    let key = MaskKey::new(b"key");
    let (mut stream, mut out, mut rest) = (Stream::new(Kinds::DEFAULT), String::new(), text);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let at = rest.char_indices().nth(*size).map_or(rest.len(), |(at, _)| at);
        out.push_str(&stream.feed(&rest[..at], 0, &key.of("ann")));
        assert!(stream.held() <= HOLD, "{}", stream.held());
        rest = &rest[at..];
    }
    out.push_str(&stream.close(&key.of("ann")));
    out
}

fn without_digits(text: &str) -> String {
    let mask = regex::Regex::new(r"\[([A-Z_]+):[0-9a-f]{4}\]").expect("a pattern");
    mask.replace_all(text, "[$1]").into_owned()
}

#[test]
fn a_secret_that_is_split_anywhere_is_found() {
    let long = format!("eyJhbGciOiJIUzI1NiJ9.{}.c2ln", "eyJzdWIiOiIxMjM0NTY3ODkwIn0".repeat(20));
    let armour = format!(
        "{0}BEGIN RSA PRIVATE KEY{0}\n{1}\n{0}END RSA PRIVATE KEY{0}",
        "-----",
        "MIIEow+/".repeat(100)
    );
    let header = format!("eyJ{}", "hbGciOiJIUzI1NiIsInR5cCI6".repeat(9));
    for secret in [
        "4111 1111 1111 1111",
        "alice@example.com",
        "Bearer abcdef0123456789",
        "AKIAIOSFODNN7EXAMPLE",
        "postgres://ann:hunter2@db",
        &long,
        &armour,
    ] {
        let text = format!("This is what it was, {secret} and nothing else.");
        // The digits of a mask are those of what was there when it was written.
        let shown = |text: String| {
            if secret.len() > HOLD {
                without_digits(&text)
            } else {
                text
            }
        };
        let whole = shown(masked(&text));
        for size in 1..40 {
            assert_eq!(shown(in_pieces(&text, &[size])), whole, "{secret} in pieces of {size}");
        }
        for at in 0..text.len() {
            assert_eq!(
                shown(in_pieces(&text, &[at.max(1), text.len()])),
                whole,
                "{secret} split at {at}"
            );
        }
    }
    // A header that is longer than what is held back is told by its beginning.
    assert!(!in_pieces(&format!("x {header}.a.b y"), &[7]).contains("hbGci"));
}

#[test]
fn what_is_held_goes_out_in_time_and_its_rest_is_masked() {
    let key = MaskKey::new(b"key");
    let mut stream = Stream::new(Kinds::DEFAULT);
    assert_eq!(stream.feed("mail ali", 0, &key.of("ann")), "mail ");
    assert_eq!(stream.flush(49_999, &key.of("ann")), "");
    assert_eq!(stream.flush(50_000, &key.of("ann")), "ali");
    assert_eq!(stream.held(), 0);
    let rest = stream.feed("ce@example.com now", 60_000, &key.of("ann")) + &stream.close(&key.of("ann"));
    assert!(rest.starts_with("[EMAIL:") && rest.ends_with("] now"), "{rest}");
    // What went out does not begin a word anew.
    assert_eq!(
        stream.feed("ta", 0, &key.of("ann")) + &stream.flush(99_999, &key.of("ann")),
        "ta"
    );
    let rest = stream.feed("sk-abcdefghijKLMNOPQRST0123456789 x", 0, &key.of("ann")) + &stream.close(&key.of("ann"));
    assert_eq!(rest, "sk-abcdefghijKLMNOPQRST0123456789 x");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn pieces_give_what_the_whole_gives((text, sizes) in pieces()) {
        let mut spans = Vec::new();
        scan(&text, Kinds::DEFAULT, &mut spans);
        prop_assume!(spans.iter().all(|span| span.end - span.start <= 100));
        prop_assert_eq!(in_pieces(&text, &sizes), masked(&text), "{:?}", text);
    }

    #[test]
    fn masking_twice_is_masking_once((text, _) in pieces(), noise in "\\PC{0,200}") {
        for text in [text.clone(), noise.clone(), format!("{noise}{text}{noise}")] {
            for rule in [KeyRule::Plain, KeyRule::Suspect, KeyRule::Secret] {
                let key = MaskKey::new(b"key");
                let once = mask_spans(&text, rule, Kinds::all(), &key.of("ann")).map_or(text.clone(), |masked| masked.text);
                prop_assert!(mask_spans(&once, rule, Kinds::all(), &key.of("ann")).is_none(), "{:?} {:?}", text, once);
            }
        }
    }
}
