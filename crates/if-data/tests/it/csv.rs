use if_data::{DataError, Examples, Labels, LoadOptions, load};
use if_linalg::HostArray;
use ndarray::array;

use crate::support::{assert_error, file, folder};

fn read(text: &[u8], label: Option<&str>) -> Result<Examples, DataError> {
    let folder = folder();
    let path = file(&folder, "t.csv", text);
    let options = LoadOptions { label_column: label.map(str::to_owned), ..LoadOptions::default() };
    load(&path.to_str().unwrap().parse()?, &options)
}

#[test]
fn the_last_column_is_the_label_unless_another_is_named() {
    let text = b"a, b ,c\n1,2.5,0\n-3,1e2,1\n";
    let examples = read(text, None).unwrap();
    assert_eq!(examples.x, HostArray::F64(array![[1.0, 2.5], [-3.0, 100.0]].into_dyn()));
    assert_eq!(examples.y, Labels::Integer(vec![0, 1]));
    assert_eq!(examples.feature_names.unwrap(), ["a", "b"]);
    assert_eq!(examples.class_names, None);
    let examples = read(text, Some("b")).unwrap();
    assert_eq!(examples.y, Labels::Real(vec![2.5, 100.0]));
    assert_eq!(examples.feature_names.unwrap(), ["a", "c"]);
}

#[test]
fn names_become_class_ids_in_sorted_order() {
    let examples = read(b"x,kind\n1,spam\n2,\"ham\"\n3,spam\n4,eggs\n", None).unwrap();
    assert_eq!(examples.y, Labels::Integer(vec![2, 1, 2, 0]));
    assert_eq!(examples.class_names.unwrap(), ["eggs", "ham", "spam"]);
}

#[test]
fn a_group_column_is_no_feature() {
    let folder = folder();
    let path = file(&folder, "t.csv", b"a,from,b,y\n1,x,2,0\n3,y z,4,1\n5,x,6,0\n");
    let load_with = |group: &str, rows: &str| {
        let options = LoadOptions { group_column: Some(group.into()), ..LoadOptions::default() };
        load(&format!("{}{rows}", path.display()).parse().unwrap(), &options)
    };
    let examples = load_with("from", "").unwrap();
    assert_eq!(examples.x, HostArray::F64(array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]].into_dyn()));
    assert_eq!(examples.groups.unwrap(), ["x", "y z", "x"]);
    assert_eq!(examples.feature_names.unwrap(), ["a", "b"]);
    assert_eq!(load_with("from", "[1..3]").unwrap().groups.unwrap(), ["y z", "x"]);
    // As the last column it leaves the label to the one before.
    let path = file(&folder, "u.csv", b"a,y,from\n1,7,p\n2,8,q\n");
    let options = LoadOptions { group_column: Some("from".into()), ..LoadOptions::default() };
    let examples = load(&path.to_str().unwrap().parse().unwrap(), &options).unwrap();
    assert_eq!(
        (examples.y, examples.groups.unwrap()),
        (Labels::Integer(vec![7, 8]), vec!["p".into(), "q".into()])
    );
    // Another column: the text that it would have been told apart by is no number.
    assert_error(load_with("elsewhere", ""), &["column \"from\": expected a finite number, found \"x\""]);
    let both = LoadOptions {
        label_column: Some("y".into()),
        group_column: Some("y".into()),
        ..LoadOptions::default()
    };
    assert_error(
        load(&path.to_str().unwrap().parse().unwrap(), &both),
        &["expected the label column \"y\", found the group column of the same name"],
    );
}

#[test]
fn every_fault_is_named() {
    assert_error(read(b"", None), &["t.csv: line 1: expected a header of at least two columns"]);
    assert_error(
        read(b"a,b\n", None),
        &["t.csv: examples: expected at least one number, found features of shape [0, 1]"],
    );
    assert_error(read(b"y\n1\n", None), &["expected a header of at least two columns, found 1 columns"]);
    assert_error(read(b"0,0,1\n0,0,1\n", None), &["distinct column names, found \"0\" twice"]);
    assert_error(
        read(b"a,b\n1,2\n3,four\n", Some("a")),
        &["line 3, column \"b\": expected a finite number, found \"four\""],
    );
    assert_error(
        read(b"a,b\n1,2\n,2\n", None),
        &["line 3, column \"a\": expected a finite number, found \"\""],
    );
    assert_error(
        read(b"a,b\nNaN,2\n", None),
        &["line 2, column \"a\": expected a finite number, found \"NaN\""],
    );
    assert_error(read(b"a,b\n1,\n", None), &["line 2, column \"b\": expected a label"]);
    assert_error(read(b"a,b\n1,2\n3\n", None), &["line 3: expected 2 columns, as in the header, found 1"]);
    assert_error(
        read(b"a,b\n1,2\n", Some("c")),
        &["expected the label column \"c\", found the columns [\"a\", \"b\"]"],
    );
    assert_error(read(b"a,b\n1,2\n\xff,3\n", None), &["t.csv: line 3: expected UTF-8 text"]);
}
