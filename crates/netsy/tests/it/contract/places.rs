//! The places a bucket can be: memory, local files, and a real S3-compatible server.
//!
//! The server is the one that NETSY_TEST_S3_ENDPOINT and NETSY_TEST_S3_BUCKET name (`.ci/s3` starts one);
//! without them that part is left out, and says so.

use std::io::Write;
use std::sync::{Arc, Once};
use std::time::Duration;

use netsy::bucket::faults::Faults;
use netsy::bucket::{AccessKey, Bucket, BucketConfig, Timeouts, fresh_mark, install_crypto, open};
use object_store::memory::InMemory;

/// A bucket of its own for one test, with what keeps it alive.
pub(super) struct Place {
    pub(super) what: &'static str,
    pub(super) bucket: Bucket,
    pub(super) _folder: Option<tempfile::TempDir>,
}

pub(super) const CLUSTER: &str = "contract";

fn memory() -> Place {
    let bucket = Bucket::over(Arc::new(InMemory::new()), "memory", CLUSTER);
    Place {
        what: "memory",
        bucket,
        _folder: None,
    }
}

fn files() -> Place {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("file://{}", folder.path().join("bucket").display());
    let bucket = open(
        &BucketConfig {
            url,
            ..BucketConfig::default()
        },
        CLUSTER,
    )
    .expect("opens");
    Place {
        what: "local files",
        bucket,
        _folder: Some(folder),
    }
}

/// A fresh prefix on the real server, if there is one.
fn server() -> Option<Place> {
    let variable = |name: &str| std::env::var(name).ok();
    let Some(endpoint) = variable("NETSY_TEST_S3_ENDPOINT") else {
        say_so();
        return None;
    };
    let name =
        variable("NETSY_TEST_S3_BUCKET").expect("NETSY_TEST_S3_BUCKET goes with the endpoint");
    let key = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
    let config = BucketConfig {
        url: format!("s3://{name}/{}/a prefix", fresh_mark()),
        endpoint: Some(endpoint),
        region: Some("us-east-1".into()),
        access_key: key.map(|(id, secret)| AccessKey {
            id,
            secret,
            token: None,
        }),
        allow_http: true,
        timeouts: Timeouts {
            document: Duration::from_secs(30),
            ..Timeouts::default()
        },
        ..BucketConfig::default()
    };
    Some(Place {
        what: "S3",
        bucket: open(&config, CLUSTER).expect("opens"),
        _folder: None,
    })
}

pub(super) fn everywhere() -> Vec<Place> {
    install_crypto();
    [Some(memory()), Some(files()), server()]
        .into_iter()
        .flatten()
        .collect()
}

/// Past the test harness, which would swallow it.
fn say_so() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let text = "\n==== bucket contract: NOT RUN on a real S3 server; set NETSY_TEST_S3_ENDPOINT, \
                    or use .ci/s3 ====\n\n";
        let _ = std::io::stderr().write_all(text.as_bytes());
    });
}

/// A bucket in memory under a sky of its own.
pub(super) fn weathered() -> (Bucket, Faults) {
    let faults = Faults::new(Arc::new(InMemory::new()));
    let timeouts = Timeouts {
        document: Duration::from_secs(1),
        ..Timeouts::default()
    };
    (
        Bucket::over(Arc::new(faults.clone()), "memory", CLUSTER).with_timeouts(timeouts),
        faults,
    )
}
