//! The demo, as a newcomer runs it: no server, one command, both sides identical.

use std::process::Command;

fn demo(arguments: &[&str]) -> (Option<i32>, serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["demo", "--json", "--keep"])
        .arg(folder.path())
        .args(arguments)
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    let last = stdout.lines().last().unwrap_or_else(|| panic!("{stderr}"));
    assert!(!stderr.contains("trying again"), "{stderr}");
    (output.status.code(), serde_json::from_str(last).unwrap())
}

#[test]
fn the_demo_ends_with_both_sides_identical() {
    for arguments in [&["--changes", "40000"][..], &["--changes", "20000", "--keys", "500", "--seed", "7", "-w", "2"]] {
        let (code, summary) = demo(arguments);
        assert_eq!((code, &summary["identical"]), (Some(0), &true.into()), "{arguments:?}: {summary}");
        assert_eq!(summary["differences"], 0);
        assert!(summary["rows"].as_u64().unwrap() > 100 && summary["epochs"].as_u64().unwrap() > 0, "{summary}");
    }
}

#[test]
fn a_folder_that_holds_a_result_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("target.db"), "precious").unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["demo", "--keep"]).arg(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("target.db exists already"));
    assert_eq!(std::fs::read_to_string(folder.path().join("target.db")).unwrap(), "precious");
}
