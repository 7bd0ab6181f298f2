//! Test 13, the medium under a mapped block: pages that cannot be read end the queries that need them, and nothing else.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};

use quiver_persistence::testing::Row;

use crate::remote_write::{Series, write};
use crate::server::Start;

const T: i64 = 1_700_000_000_000;

#[test]
fn a_block_that_cannot_be_read_ends_queries_and_not_the_server() {
    let row = Row::begin("13", "pages of a mapped block that cannot be read");
    let mut server = Start::new().with(&["--cache-size", "off", "--limit", "result_cache_bytes_max=0"]).ready();
    let fill = |name: &str, from: i64| {
        let series: Vec<Series> = (0..40)
            .map(|i| {
                let noise = |k: u64| f64::from_bits(((i + 1) * 1000 + k).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2);
                let values: Vec<f64> = (0..200).map(noise).collect();
                Series::new(name, &[("i", &i.to_string())]).floats(from, 15_000, &values)
            })
            .collect();
        write(&mut server.client(), &series);
        server.admin("flush");
    };
    fill("bad", T);
    fill("good", T + 10_000_000);
    let ask = |name: &str, at: i64| {
        // Values are needed: what counts samples is content with their times, which are at hand.
        let query = format!("sum(quantile_over_time(0.5, {name}[1h]))");
        server.post("/api/v1/query", &[("query", &query), ("time", &(at / 1000).to_string())])
    };
    let whole = |name: &str, at: i64| {
        let r = ask(name, at);
        assert_eq!(r.status, 200, "{}", r.text());
        r.json()["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    let (bad_at, good_at) = (T + 3_000_000, T + 13_000_000);
    let want = (whole("bad", bad_at), whole("good", good_at));
    assert!(want.0.is_some() && want.1.is_some(), "{want:?}");
    let block = std::fs::read_dir(server.data.join("blocks"))
        .expect("blocks")
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "block"))
        .min()
        .expect("a block");
    let bytes = std::fs::read(&block).expect("its bytes");
    let mut rounds = 0;
    // Times and index, at the end of the file, are read and kept by now.
    for cut in [0, 4096, 2 * 8192] {
        let mut file = OpenOptions::new().write(true).open(&block).expect("opens");
        file.set_len(cut as u64).expect("is cut");
        for _ in 0..3 {
            let r = ask("bad", bad_at);
            assert_eq!(r.status, 500, "{}", r.text());
            assert!(r.text().contains("blocks/"), "the block is named: {}", r.text());
            assert_eq!(whole("good", good_at), want.1, "other blocks answer");
        }
        write(&mut server.client(), &[Series::new("new", &[("a", "b")]).float(T + 20_000_000, cut as f64)]);
        // It comes back: without a restart, the same answers.
        file.seek(SeekFrom::Start(cut as u64)).expect("seeks");
        file.write_all(&bytes[cut..]).expect("is whole again");
        assert_eq!(whole("bad", bad_at), want.0);
        rounds += 1;
    }
    assert!(server.is_alive());
    row.passed(format_args!("{rounds} cuts, each made whole again"), rounds);
}
