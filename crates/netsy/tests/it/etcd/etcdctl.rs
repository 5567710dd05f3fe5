//! etcdctl itself, where it is installed.

use super::oracle::etcdctl;
use crate::fake::Node;

#[tokio::test]
async fn the_commands_operators_use_work() {
    let node = Node::start().await;
    let run = async |arguments: &[&str], input: &str| etcdctl(node.address, arguments, input).await;
    let Some((ok, told)) = run(&["endpoint", "health"], "").await else {
        return;
    };
    assert!(ok && told.contains("is healthy"), "{told}");

    let create = "mod(\"a\") = \"0\"\n\nput a 1\n\nget a\n\n";
    let (ok, told) = run(&["txn", "--interactive"], create).await.unwrap();
    assert!(ok && told.contains("SUCCESS"), "{told}");
    let (ok, told) = run(&["txn", "--interactive"], create).await.unwrap();
    assert!(
        ok && told.contains("FAILURE") && told.contains("a\n1"),
        "{told}"
    );
    let (ok, told) = run(&["get", "--prefix", "", "--keys-only"], "")
        .await
        .unwrap();
    assert!(ok && told.trim() == "a", "{told}");
    let (ok, told) = run(&["get", "a", "--print-value-only", "--consistency=s"], "")
        .await
        .unwrap();
    assert!(ok && told.trim() == "1", "{told}");

    let (ok, told) = run(&["endpoint", "status", "-w", "table"], "")
        .await
        .unwrap();
    assert!(
        ok && told.contains("3.6.11") && told.contains("true"),
        "{told}"
    );
    let (ok, told) = run(&["member", "list"], "").await.unwrap();
    assert!(ok && told.contains("started, fake"), "{told}");
    let (ok, told) = run(&["alarm", "list"], "").await.unwrap();
    assert!(ok && told.is_empty(), "{told}");
    let (ok, told) = run(&["lease", "grant", "60"], "").await.unwrap();
    assert!(ok && told.contains("granted with TTL(60s)"), "{told}");

    let (ok, told) = run(&["put", "a", "2"], "").await.unwrap();
    assert!(!ok && told.contains("Put is not supported"), "{told}");
    let (ok, told) = run(&["get", "a", "--rev=99"], "").await.unwrap();
    assert!(
        !ok && told.contains("required revision is a future revision"),
        "{told}"
    );
}
