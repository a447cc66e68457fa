//! `fetch` against a server on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::{fs, thread};

use if_data::{DatasetInfo, FetchOptions, LoadOptions, datasets, fetch, load};

use crate::support::{assert_error, data_dir, folder};

/// Serves `answer(path)`, the whole response, to every request; returns the base address.
fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/mirror", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let path = request.split(' ').nth(1).unwrap();
            // The client hangs up on a body that is too long; that is its right.
            let _ = stream.write_all(&answer(path));
        }
    });
    base
}

fn response(status: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn options(folder: &Path, base: String) -> FetchOptions {
    FetchOptions { cache_dir: folder.to_owned(), base_url: Some(base), proxy: None }
}

fn enron() -> &'static DatasetInfo {
    datasets().iter().find(|info| info.name == "enron1-spam").unwrap()
}

/// Checks that fetching from this server fails in these words and leaves no file behind.
fn assert_refused(answer: impl Fn(&str) -> Vec<u8> + Send + 'static, parts: &[&str]) {
    let folder = folder();
    let options = options(folder.path(), serve(answer));
    assert_error(fetch("enron1-spam", &options), &[&["/mirror/enron1.tar.gz: "], parts].concat());
    assert_eq!(fs::read_dir(folder.path().join("enron1_spam")).unwrap().count(), 0);
}

#[test]
fn a_good_download_loads_and_is_not_repeated() {
    let Some(data) = data_dir() else { return };
    let folder = folder();
    let served = data.join("mnist");
    let base = serve(move |path| {
        let body = fs::read(served.join(path.strip_prefix("/mirror/").unwrap())).unwrap();
        response("200 OK", body.len(), &body)
    });
    let paths = fetch("mnist", &options(folder.path(), base)).unwrap();
    assert_eq!(paths.len(), 4);
    let from_cache = LoadOptions { cache_dir: Some(folder.path().to_owned()), ..LoadOptions::default() };
    assert_eq!(load(&"mnist:test".parse().unwrap(), &from_cache).unwrap().len(), 10_000);
    // The second time nobody needs to answer.
    let nobody = options(folder.path(), "http://127.0.0.1:1".to_owned());
    assert_eq!(fetch("mnist", &nobody).unwrap(), paths);
    // A damaged file is fetched again, not believed.
    fs::write(&paths[3], b"damaged").unwrap();
    assert_error(fetch("mnist", &nobody), &["http://127.0.0.1:1/t10k-labels-idx1-ubyte.gz: "]);
}

#[test]
fn a_wrong_file_of_the_right_length_is_refused() {
    let bytes = enron().files[0].bytes as usize;
    assert_refused(
        move |_| response("200 OK", bytes, &vec![0; bytes]),
        &["expected sha256 fc85a8d3fa5e9845", ", received "],
    );
}

#[test]
fn a_missing_file_is_refused() {
    assert_refused(|_| response("404 Not Found", 2, b"no"), &["404"]);
}

#[test]
fn a_truncated_body_is_refused() {
    assert_refused(|_| response("200 OK", 2_200_532, &[0; 1000]), &["after 1000 bytes"]);
    assert_refused(|_| response("200 OK", 1000, &[0; 1000]), &["expected 2200532 bytes, received 1000"]);
}

#[test]
fn a_body_that_is_too_long_is_refused() {
    assert_refused(
        |_| response("200 OK", 3_000_000, &vec![0; 3_000_000]),
        &["expected 2200532 bytes, received more"],
    );
}

#[test]
fn a_server_that_is_not_there_is_an_error_of_one_line() {
    let folder = folder();
    let options = options(folder.path(), "http://127.0.0.1:1".to_owned());
    assert_error(fetch("enron1-spam", &options), &["http://127.0.0.1:1/enron1.tar.gz: "]);
}

#[test]
fn embedded_and_unknown_datasets_need_no_server() {
    let folder = folder();
    let options = options(folder.path(), "http://127.0.0.1:1".to_owned());
    assert!(fetch("digits", &options).unwrap().is_empty());
    assert_error(fetch("minst", &options), &["unknown dataset \"minst\""]);
}

#[test]
fn a_file_that_only_a_mirror_has_asks_for_one() {
    let folder = folder();
    let options = FetchOptions { cache_dir: folder.path().to_owned(), ..FetchOptions::default() };
    assert_error(
        fetch("diabetes130-hospital", &options),
        &["diabetic_data.csv.gz: no server publishes this file"],
    );
}
