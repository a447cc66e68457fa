//! Groups: `group`, `what-if` and `select`, against `attribute` and against each other.

use crate::support::{Folder, Problem, json};

const BASE: &str = "--model softmax --train T.npz --query Q.npz --l2 0.05";
const N: usize = 55;

fn folder() -> Folder {
    let folder = Folder::new();
    Problem::new(N + 5, 3, true).write(&folder);
    folder.succeed("train --model softmax --train T.npz --l2 0.05 --out W.safetensors");
    folder
}

/// Rows of a csv file, the header first.
fn table(folder: &Folder, name: &str) -> Vec<Vec<String>> {
    let text = String::from_utf8(folder.bytes(name)).unwrap();
    text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

fn column(rows: &[Vec<String>], name: &str) -> Vec<f64> {
    let at = rows[0].iter().position(|heading| heading == name).unwrap();
    rows[1..].iter().map(|row| row[at].parse().unwrap()).collect()
}

fn close(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) <= tolerance * norm(&mut b.iter().copied())
}

/// The contract: one row for each group and query; first order is a sum of scores, over n or over n - |S|.
#[test]
fn first_order_is_a_sum_of_scores() {
    let folder = folder();
    folder.write("G.csv", b"group,index\na,0\nb,7\na,3\na,54\n");
    for (removal, stay) in [("fixed", [N, N]), ("renormalised", [N - 3, N - 1])] {
        let more = format!("{BASE} --weights W.safetensors --removal {removal}");
        folder.succeed(&format!("attribute {more} --scores S.npy"));
        let scores = folder.scores("S.npy").to_f64();
        folder.succeed(&format!("group {more} --groups G.csv --order first --effects E.csv"));
        let rows = table(&folder, "E.csv");
        assert_eq!(rows[0], ["group", "size", "query", "effect"]);
        assert_eq!(rows.len(), 11);
        assert_eq!(
            (&rows[1][..3], &rows[6][..3]),
            (&["a", "3", "0"].map(String::from)[..], &["b", "1", "0"].map(String::from)[..])
        );
        let sum = |members: &[usize], q: usize, stay: usize| {
            members.iter().map(|&i| scores[[q, i]]).sum::<f64>() / stay as f64
        };
        let expected: Vec<f64> = (0..5)
            .map(|q| sum(&[0, 3, 54], q, stay[0]))
            .chain((0..5).map(|q| sum(&[7], q, stay[1])))
            .collect();
        assert!(close(&column(&rows, "effect"), &expected, 1e-7), "{removal}");
        let report = json(&String::from_utf8(folder.bytes("E.json")).unwrap());
        assert_eq!(report["groups"][0]["group"], "a");
        assert_eq!(report["groups"][0]["termination"], "converged");
        assert_eq!(report["order"], "first");
    }
}

#[test]
fn orders_come_nearer_to_retraining_and_second_order_has_two_parts() {
    let folder = folder();
    let rows: String = (0..12).map(|i| format!("all,{}\n", 3 * i)).collect();
    folder.write("G.csv", format!("group,index\n{rows}").as_bytes());
    let mut errors = Vec::new();
    for order in ["first", "second", "newton", "rescaled", "newton --evaluated"] {
        folder.succeed(&format!(
            "group {BASE} --weights W.safetensors --groups G.csv --order {order} --retrain --effects E.csv"
        ));
        let rows = table(&folder, "E.csv");
        let [effect, actual] = ["effect", "actual"].map(|name| column(&rows, name));
        let apart: f64 = effect.iter().zip(&actual).map(|(e, a)| (e - a) * (e - a)).sum();
        errors.push((apart / actual.iter().map(|a| a * a).sum::<f64>()).sqrt());
        if order == "second" {
            assert_eq!(rows[0][4..], ["actual", "first_order", "interaction"]);
            let parts: Vec<f64> = column(&rows, "first_order")
                .iter()
                .zip(column(&rows, "interaction"))
                .map(|(first, interaction)| first + interaction)
                .collect();
            assert!(close(&parts, &effect, 1e-12));
        }
    }
    let [first, second, newton, rescaled, evaluated] = errors[..] else { unreachable!() };
    assert!(second < 0.6 * first && newton < second && evaluated < 0.5 * newton, "{errors:?}");
    assert!(rescaled < first, "{errors:?}");
}

/// Drawn groups are written as a table that reads back to the same effects; the seed decides them.
#[test]
fn drawn_groups_can_be_saved_and_read() {
    let folder = folder();
    let base = format!("group {BASE} --weights W.safetensors");
    let kinds = [
        "random",
        "same-class",
        "feature-window",
        "feature-cluster",
        "gradient-cluster",
        "positive-tail",
        "negative-tail",
    ];
    for kind in kinds {
        let drawn = format!("--draw {kind} --draw-size 3,0.1 --draw-count 2 --draw-seed 4");
        folder.succeed(&format!("{base} {drawn} --save-groups G.csv --effects E.csv"));
        let rows = table(&folder, "E.csv");
        assert_eq!(rows.len(), 21);
        assert_eq!(rows[1][..2], [format!("{kind}-3-0"), "3".into()]);
        assert_eq!(rows[20][..2], [format!("{kind}-6-1"), "6".into()]);
        let bytes = folder.bytes("E.csv");
        folder.succeed(&format!("{base} --groups G.csv --effects E.csv --threads 1"));
        assert_eq!(folder.bytes("E.csv"), bytes, "{kind}");
    }
}

#[test]
fn a_column_makes_groups_and_is_no_feature() {
    let folder = Folder::new();
    let problem = Problem::new(40, 2, true);
    let row = |i: usize| {
        let x: Vec<String> = problem.x.row(i).iter().map(f64::to_string).collect();
        format!("{},{},{}\n", x.join(","), ["north", "south", "east coast"][i % 3], problem.y[i])
    };
    let lines: String = (0..40).map(row).collect();
    folder.write("T.csv", format!("a,b,c,d,from,y\n{lines}").as_bytes());
    let base = "group --model logistic --train T.csv --query T.csv[0..4] --l2 0.05 --effects E.csv";
    folder.succeed(&format!("{base} --group-by from"));
    let rows = table(&folder, "E.csv");
    let names: Vec<&str> = rows[1..].iter().step_by(4).map(|row| row[0].as_str()).collect();
    assert_eq!(names, ["east coast", "north", "south"]);
    assert_eq!(rows[1][1], "13");
    folder.refuse(&format!("{base} --group-by b"), &["T.csv: line 2, column \"from\"", "a finite number"]);
    folder.refuse(&format!("{base} --group-by nowhere"), &["column \"from\""]);
    // Columns go by their names.
    let swapped: String = lines.clone();
    folder.write("S.csv", format!("b,a,c,d,from,y\n{swapped}").as_bytes());
    let other = base.replace("T.csv[0..4]", "S.csv[0..4]");
    folder.refuse(
        &format!("{other} --group-by from"),
        &["S.csv: expected the features of T.csv in their order, found \"b\" in place of \"a\""],
    );
    folder.refuse(
        &format!("{base} --label from --group-by from"),
        &["--group-by: expected another column than --label"],
    );
    // An array of an npz file does the same.
    let npz = folder.path("T.npz");
    let x = if_data::Array::F64(problem.x.clone().into_dyn());
    let array = |of: &dyn Fn(usize) -> i64| {
        if_data::Array::I64((0..40).map(of).collect::<ndarray::Array1<i64>>().into_dyn())
    };
    let (y, from) = (array(&|i| problem.y[i] as i64), array(&|i| i as i64 % 3));
    if_data::write_npz(&npz, [("x", &x), ("y", &y), ("from", &from)]).unwrap();
    let bytes = folder.bytes("E.csv");
    folder.succeed(&format!("{} --group-by from", base.replace(".csv", ".npz").replace("E.npz", "E.csv")));
    let again = table(&folder, "E.csv");
    assert_eq!(again[1][..3], ["0", "14", "0"].map(String::from));
    folder.write("E.csv", &bytes);
    let digits =
        "group --model softmax --train digits:train[0..50] --query digits:test[0] --l2 0.1 --effects E.csv";
    folder.refuse(&format!("{digits} --group-by y"), &["--group-by y", "csv table", "npz", "digits"]);
}

#[test]
fn what_if_puts_the_orders_side_by_side() {
    let folder = folder();
    folder.write("few.csv", b"index\n4\n9\n2\n");
    let base = format!("what-if {BASE} --weights W.safetensors --group few.csv");
    let text = folder.succeed(&format!("{base} --retrain")).stdout;
    for part in [
        "without group few: 3 of 55",
        "first order",
        "Newton, evaluated",
        "retraining",
        "Error against retraining: first order",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let document = json(&folder.succeed(&format!("{base} --retrain --json")).stdout);
    let group = &document["groups"][0];
    let of = |key: &str| -> Vec<f64> {
        group[key].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    assert!(close(&of("newton"), &of("actual"), 0.1));
    assert!(close(&of("rescaled"), &of("newton"), 0.3) && close(&of("second"), &of("newton"), 0.1));
    // The library says the same as the command that writes files.
    folder.write("G.csv", b"group,index\nfew,4\nfew,9\nfew,2\n");
    folder.succeed(&format!(
        "group {BASE} --weights W.safetensors --groups G.csv --order newton --effects E.csv"
    ));
    assert!(close(&column(&table(&folder, "E.csv"), "effect"), &of("newton"), 1e-6));
}

#[test]
fn selection_beats_chance_and_saves_its_groups() {
    let folder = folder();
    let base = format!("select {BASE} --weights W.safetensors --size 6 --save-groups S.csv");
    let document = json(&folder.succeed(&format!("{base} --retrain --json")).stdout);
    for query in document["queries"].as_array().unwrap() {
        let of = |key: &str| query["actual"][key].as_f64().unwrap();
        assert!(of("group") > of("random") && of("group") > 0.9 * of("greedy"), "{query}");
        assert_eq!(query["group"].as_array().unwrap().len(), 6);
    }
    let saved = table(&folder, "S.csv");
    assert_eq!((saved.len(), saved[1][0].as_str()), (31, "query-0"));
    let lowers = json(&folder.succeed(&format!("{base} --opponents --json")).stdout);
    assert!(lowers["queries"][0]["effect"].as_f64().unwrap() < 0.0);
    assert!(folder.succeed(&base).stdout.contains("strongest one by one"));
    // A group that rests on solves that did not converge says so.
    let cut = folder.run(&format!("{base} --solver cg --max-iterations 1"));
    assert_eq!(cut.code, 3, "{}", cut.stderr);
    assert!(cut.stderr.contains("stopped at the iteration limit"), "{}", cut.stderr);
}

#[test]
fn bad_groups_are_refused_in_one_line() {
    let folder = folder();
    let all: String = (0..N).map(|i| format!("all,{i}\n")).collect();
    for (text, parts) in [
        (format!("group,index\nb,1\n{all}"), vec!["G.csv: group all holds all 55 training examples"]),
        ("group,index\n".into(), vec!["G.csv: line 2: expected at least one row, found none"]),
        (
            "group,index\na,1\na,55\n".into(),
            vec!["G.csv: line 3: expected a row of T.npz from 0 to 54, found \"55\""],
        ),
        ("group,index\na,-1\n".into(), vec!["line 2", "found \"-1\""]),
        (
            "group,index\na,1\nb,1\na,1\n".into(),
            vec!["line 4: expected every row of group a once, found 1 again"],
        ),
        ("name,index\na,1\n".into(), vec!["line 1: expected the header group,index, found"]),
        ("group,row\na,1\n".into(), vec!["line 1: expected the header group,index, found"]),
        ("group,index\na\n".into(), vec!["G.csv: line 2: expected 2 columns, found 1"]),
    ] {
        folder.write("G.csv", text.as_bytes());
        folder.refuse(&format!("group {BASE} --groups G.csv --effects E.csv"), &parts);
        folder.refuse(&format!("what-if {BASE} --group G.csv"), &parts);
    }
    folder.write("G.csv", b"group,index\na,1\n");
    let base = format!("group {BASE} --effects E.csv");
    for (more, part) in [
        ("", "--groups"),
        ("--groups G.csv --draw random", "cannot be used with"),
        ("--groups missing.csv", "missing.csv"),
        ("--groups G.csv --order third", "--order"),
        ("--groups G.csv --order newton --solver kfac", "--order newton: expected a solver that solves"),
        ("--groups G.csv --solver identity", "--solver identity"),
        ("--groups G.csv --retrain --precision f32", "--retrain: expected --precision f64"),
        ("--groups G.csv --retrain --layers fc", "expected no --layers"),
        ("--draw random --draw-size 55", "--draw-size 55: expected less than 55"),
        ("--draw same-class --draw-size 40", "--draw-size 40: expected no more than the largest class"),
        ("--draw random --draw-size 0", "--draw-size"),
        ("--groups G.csv --save-groups G.csv", "G.csv: expected an output apart from the inputs"),
        ("--groups G.csv --save-groups E.csv", "E.csv: expected a file for each output, found it twice"),
        ("--groups G.csv --save-groups S.json", "--save-groups S.json: expected a name that ends in .csv"),
        (
            "--groups G.csv --parameter-changes C.csv",
            "--parameter-changes C.csv: expected a name that ends in .npy",
        ),
        ("--groups G.csv --save-groups nowhere/S.csv", "nowhere"),
        ("--groups G.csv --draw-size 3", "--draw-size, --draw-count and --draw-seed belong to --draw"),
    ] {
        folder.refuse(&format!("{base} {more}"), &[part]);
    }
    folder.refuse(&format!("group {BASE} --groups G.csv --effects E.npy"), &["--effects E.npy", ".csv"]);
    folder.refuse(&format!("select {BASE} --size 55"), &["--size 55: expected less than the 55"]);
    folder.refuse(&format!("select {BASE} --size 0"), &["--size"]);
}

/// At weights that are no optimum damped Gauss-Newton influence predicts the proximal response.
#[test]
fn the_proximal_response_is_what_damped_influence_predicts() {
    let folder = Folder::new();
    Problem::new(N + 5, 3, true).write(&folder);
    folder.write("G.csv", b"group,index\na,1\nb,20\nb,21\n");
    let base = format!("group {BASE} --weights W.safetensors --groups G.csv --damping 0.5 --effects E.csv");
    folder.succeed(&format!("{base} --proximal --parameter-changes C.npy"));
    let rows = table(&folder, "E.csv");
    assert!(close(&column(&rows, "effect"), &column(&rows, "proximal"), 0.05), "{rows:?}");
    assert_eq!(folder.scores("C.npy").shape(), [2, 15]);
    folder.refuse(&format!("{base} --proximal --retrain"), &["cannot be used with"]);
    folder.refuse(
        &format!("{base} --proximal --removal renormalised"),
        &["--proximal: expected --removal fixed"],
    );
    let fisher = format!("{base} --proximal --curvature fisher");
    folder.refuse(&fisher, &["--proximal: expected --curvature gauss-newton, found fisher"]);
}

/// A tanh network: predicted and really retrained by L-BFGS.
#[test]
fn groups_of_a_network_are_retrained_too() {
    let folder = folder();
    folder.write(
        "M.toml",
        b"input = [4]\nloss = \"cross-entropy\"\n\
          [[layer]]\ntype = \"dense\"\nname = \"0\"\nout = 4\n\
          [[layer]]\ntype = \"tanh\"\n\
          [[layer]]\ntype = \"dense\"\nname = \"2\"\nout = 3\n",
    );
    folder.succeed(
        "train --model M.toml --train T.npz --l2 0.05 --optimizer lbfgs --seed 3 --out N.safetensors",
    );
    folder.write("G.csv", b"group,index\na,1\na,2\nb,20\nb,21\nb,30\n");
    folder.succeed(
        "group --model M.toml --weights N.safetensors --train T.npz --query Q.npz --l2 0.02 --groups G.csv \
         --order newton --curvature gauss-newton --retrain --effects E.csv",
    );
    let rows = table(&folder, "E.csv");
    assert!(close(&column(&rows, "effect"), &column(&rows, "actual"), 0.25), "{rows:?}");
    let base = "--model M.toml --weights N.safetensors --train T.npz --query Q.npz --l2 0.02";
    folder.refuse(
        &format!("select {base} --size 4"),
        &["select: expected --curvature gauss-newton, found hessian"],
    );
    folder.refuse(
        &format!("group {base} --groups G.csv --order rescaled --effects F.csv"),
        &["--order rescaled: expected --curvature gauss-newton, found hessian"],
    );
    folder.succeed(&format!("select {base} --size 4 --curvature gauss-newton --retrain"));
    folder.succeed(&format!("verify {base} --top 3 --curvature gauss-newton"));
}
