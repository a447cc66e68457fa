//! What the page says, that nothing in it becomes HTML, and how it looks to a browser.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::*;
use crate::{sample, store};

/// What ends a text, an attribute and a tag.
const HOSTILE: &str =
    "\"'>&<script>document.title='spoilt'</script><img src=\"http://nowhere.invalid/x.png\">";

/// The report over a run of the sample experiments. Look at it in a browser after a change:
/// `IF_SAMPLE_REPORT=DIR cargo test -p if-experiments sample_report` keeps the files in DIR.
#[test]
fn sample_report_is_complete() {
    let temporary = tempfile::tempdir().unwrap();
    let out = std::env::var_os("IF_SAMPLE_REPORT").map_or(temporary.path().to_path_buf(), Into::into);
    let page = sample_page(&out);
    for part in [
        "0.9993",
        "≥ 0.99",
        "✗ missed",
        "2 of 4, 2 missed",
        "diagonal (plot)",
        "cargo xtask reproduce --only sample",
        "<svg",
        "Text is escaped: &lt;b&gt;bold&lt;/b&gt;",
    ] {
        assert!(page.contains(part), "no '{part}'");
    }
    assert!(!page.contains("<b>bold</b>"));
    loads_nothing(&page);
}

/// Runs the sample experiments.
fn sample_page(out: &Path) -> String {
    sample::run(out, &[]).unwrap();
    fs::read_to_string(out.join("index.html")).unwrap()
}

/// Neither scripts nor anything from elsewhere: the only addresses are places on the page, and the name of SVG.
fn loads_nothing(page: &str) {
    for part in ["<script", "<img", "<link", "<iframe", "<object", " src=", "url(", "@import"] {
        assert!(!page.contains(part), "{part}");
    }
    let places = page.matches("href=").count();
    assert!(places > 0 && page.matches("href=\"#").count() == places);
    assert_eq!(page.matches("://").count(), page.matches("http://www.w3.org/2000/svg").count());
}

/// Every text of a result, whatever field it is in, and the names of settings.
fn spoil(value: &mut Value) {
    match value {
        Value::String(text) => *text = HOSTILE.into(),
        Value::Array(values) => values.iter_mut().for_each(spoil),
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut().filter(|(name, _)| *name != "op") {
                spoil(value);
                if let ("settings", Some(settings)) = (name.as_str(), value.as_object_mut()) {
                    settings.insert(HOSTILE.into(), HOSTILE.into());
                }
            }
        }
        _ => {}
    }
}

fn hostile_page(out: &Path) -> String {
    sample::run(out, &["sample"]).unwrap();
    let path = out.join("sample/result.json");
    let mut record: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    spoil(&mut record);
    fs::write(&path, record.to_string()).unwrap();
    let (results, unreadable) = store::load_all(out).unwrap();
    assert!(unreadable.is_empty(), "{unreadable:?}");
    html(&results)
}

#[test]
fn no_text_of_a_result_becomes_html() {
    let out = tempfile::tempdir().unwrap();
    let page = hostile_page(out.path());
    assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("'>"), "{page}");
    // Fields of which the sample has one or more.
    assert!(page.matches("&lt;script&gt;").count() > 40);
    assert!(page.contains("The file &quot;"));
}

#[test]
fn a_plot_is_a_file_beside_its_result() {
    let out = tempfile::tempdir().unwrap();
    sample::run(out.path(), &[]).unwrap();
    fs::remove_file(out.path().join("sample/scatter.svg")).unwrap();
    fs::write(out.path().join("secret"), "secret").unwrap();
    let (mut results, unreadable) = store::load_all(out.path()).unwrap();
    assert!(unreadable.is_empty());
    results[0].record.plots[1].file = "../secret".into();
    let page = html(&results);
    assert!(page.contains("The file scatter.svg is missing."));
    assert!(page.contains("The file ../secret is missing.") && !page.contains(">secret"));
}

/// The first browser that starts.
fn browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok())
}

/// What the browser prints of the page at `file`; `arguments` say what.
fn headless(browser: &str, profile: &Path, arguments: &[&str], file: &Path) -> String {
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
    command.arg(format!("--user-data-dir={}", profile.display())).args(arguments);
    let output = command.arg(format!("file://{}", file.display())).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The page in a frame as wide as a phone, and what is wider than it.
fn framed(page: &str, width: usize) -> String {
    let escaped = page.replace('&', "&amp;").replace('"', "&quot;");
    let script = "const inner = document.getElementById('frame').contentDocument;
        const root = inner.documentElement;
        const wide = [...inner.querySelectorAll('body *')].filter(one =>
            one.getBoundingClientRect().right > root.clientWidth + 1 && !one.closest('.scroll, svg'));
        document.title = [root.scrollWidth, root.clientWidth, inner.title, inner.scripts.length,
            wide.map(one => one.outerHTML.slice(0, 80))].join(' | ');";
    format!(
        "<!DOCTYPE html><meta charset=utf-8><title>unread</title><body style='margin:0'>
         <iframe id=frame style='border:0;width:{width}px;height:800px' onload=\"measure()\" srcdoc=\"{escaped}\"></iframe>
         <script>function measure() {{ {script} }}</script>"
    )
}

#[test]
fn a_browser_shows_the_page_without_sideways_scrolling() {
    let Some(browser) = browser() else {
        eprintln!("skipped: no browser is installed (Debian: apt-get install chromium)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (profile, file) = (folder.path().join("profile"), folder.path().join("page.html"));
    let pages = [sample_page(&folder.path().join("sample")), hostile_page(&folder.path().join("hostile"))];
    for page in &pages {
        for width in [360, 1200] {
            fs::write(&file, framed(page, width)).unwrap();
            let size = format!("--window-size={},900", width.max(600));
            let read = headless(browser, &profile, &[&size, "--dump-dom"], &file);
            let found = read.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next());
            let found: Vec<&str> = found.unwrap_or("").split(" | ").collect();
            let expected = width.to_string();
            assert_eq!(found[..2], [&expected, &expected], "wider than {width}: {found:?}");
            assert!(found[2].starts_with("Influence functions") && found[3] == "0", "{found:?}");
            assert_eq!(found[4], "", "beyond {width}");
        }
    }

    let size = |name: &str, page: &str| {
        let picture = folder.path().join(name);
        fs::write(&file, page).unwrap();
        let screenshot = format!("--screenshot={}", picture.display());
        headless(browser, &profile, &["--window-size=600,900", &screenshot], &file);
        fs::metadata(&picture).map_or(0, |file| file.len())
    };
    let (blank, shown) = (size("blank.png", "<!DOCTYPE html>"), size("shown.png", &pages[0]));
    // Compressed, white is next to nothing.
    assert!(blank > 0 && shown > 5 * blank, "{shown} bytes of picture, a blank one has {blank}");
}
