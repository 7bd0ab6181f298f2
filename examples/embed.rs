//! Quiver inside another program: open a folder, write, ask PromQL and SQL, close.
//!
//! ```sh
//! cargo run --example embed
//! ```

use quiverdb::model::WriteBatch;
use quiverdb::{AnswerValue, Database, OpenOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("quiver-embedded"), Into::into);
    let database = Database::open(&folder, OpenOptions::default()).await?;

    // Ten minutes of two rooms, a sample every ten seconds.
    let start = 1_700_000_000_000;
    let mut batch = WriteBatch::default();
    for (room, warmth) in [("attic", 24.0), ("cellar", 12.0)] {
        batch.begin_series([("__name__", "temperature_celsius"), ("room", room)]);
        for i in 0..60 {
            batch.push_float(start + i * 10_000, warmth + (i as f64 / 10.0).sin(), 0);
        }
    }
    // It is on disk when this returns. Writing the same again would change nothing.
    let receipt = database.write(batch).await?;
    println!("{} samples kept in {}", receipt.floats, folder.display());

    let answer = database.query("avg_over_time(temperature_celsius[5m])", start + 590_000).await?;
    if let AnswerValue::Vector(series) = &answer.value {
        for s in series {
            for (time, value) in &s.floats {
                println!("PromQL  {}  {value:.3} at {time}", s.labels);
            }
        }
    }

    let statement = "SELECT room, count(*) AS samples, round(max(value), 3) AS warmest \
                     FROM metrics.temperature_celsius GROUP BY room ORDER BY room";
    let (schema, batches) = database.sql(statement).await?.collect().await?;
    let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    println!("SQL     {}", names.join(" | "));
    for b in &batches {
        for row in 0..b.num_rows() {
            let cells: Result<Vec<_>, _> =
                b.columns().iter().map(|c| arrow::util::display::array_value_to_string(c, row)).collect();
            println!("SQL     {}", cells?.join(" | "));
        }
    }

    database.close().await?;
    Ok(())
}
