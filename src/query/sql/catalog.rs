//! The catalog of one statement: schemas `public` and `metrics` over one snapshot, and `system` about this process.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::{DataFusionError, Result};
use quiver_core::{Asker, Snapshot, TimeRange};
use quiver_model::{METRIC_NAME, Matcher};

use super::caches::Caches;
use super::table::{SampleTable, Shape};

/// Tables beside those of metrics.
pub const TABLES: [&str; 3] = ["samples", "series", "system.caches"];

struct View {
    snapshot: Arc<dyn Snapshot>,
    series_max: usize,
    explained: bool,
    asker: Asker,
    caches: Caches,
}

/// Catalogs: one, named `quiver`.
pub struct Catalogs(Arc<View>);
struct Catalog(Arc<View>);
struct PublicSchema(Arc<View>);
struct MetricsSchema(Arc<View>);
struct SystemSchema(Arc<View>);

macro_rules! debug_as_name {
    ($($t:ty),*) => {$(
        impl std::fmt::Debug for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($t))
            }
        }
    )*};
}
debug_as_name!(Catalogs, Catalog, PublicSchema, MetricsSchema, SystemSchema);

impl Catalogs {
    /// Over a snapshot; a scan may touch `series_max` series. Scans of an `explained` statement say what they read;
    /// who waits for a remote store waits as long as the `asker` wants. The `caches` are a table, too.
    pub fn new(snapshot: Arc<dyn Snapshot>, series_max: usize, explained: bool, asker: Asker, caches: Caches) -> Self {
        Self(Arc::new(View { snapshot, series_max, explained, asker, caches }))
    }
}

impl CatalogProviderList for Catalogs {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }
    fn catalog_names(&self) -> Vec<String> {
        vec!["quiver".into()]
    }
    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == "quiver").then(|| Arc::new(Catalog(Arc::clone(&self.0))) as _)
    }
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        vec!["public".into(), "metrics".into(), "system".into()]
    }
    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        match name {
            "public" => Some(Arc::new(PublicSchema(Arc::clone(&self.0)))),
            "metrics" => Some(Arc::new(MetricsSchema(Arc::clone(&self.0)))),
            "system" => Some(Arc::new(SystemSchema(Arc::clone(&self.0)))),
            _ => None,
        }
    }
}

impl View {
    fn table(&self, shape: Shape) -> Arc<dyn TableProvider> {
        let asker = self.asker.clone();
        Arc::new(SampleTable::new(Arc::clone(&self.snapshot), shape, self.series_max, self.explained, asker))
    }
}

#[async_trait]
impl SchemaProvider for PublicSchema {
    fn table_names(&self) -> Vec<String> {
        vec!["samples".into(), "series".into()]
    }
    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(match name {
            "samples" => Some(self.0.table(Shape::Samples)),
            "series" => Some(self.0.table(Shape::Series)),
            _ => None,
        })
    }
    fn table_exist(&self, name: &str) -> bool {
        matches!(name, "samples" | "series")
    }
}

#[async_trait]
impl SchemaProvider for MetricsSchema {
    fn table_names(&self) -> Vec<String> {
        // A snapshot that cannot be read says so when a table is asked for.
        self.0.snapshot.label_values(METRIC_NAME, &[], TimeRange::ALL, usize::MAX).unwrap_or_default()
    }
    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let selector = [vec![Matcher::equal(METRIC_NAME, name)]];
        let labels = self
            .0
            .snapshot
            .label_names(&selector, TimeRange::ALL, usize::MAX)
            .map_err(|e| DataFusionError::External(Box::new(e)))?;
        if labels.is_empty() {
            return Ok(None);
        }
        let labels = labels.into_iter().filter(|l| l != METRIC_NAME).collect();
        Ok(Some(self.0.table(Shape::Metric { name: name.to_owned(), labels })))
    }
    fn table_exist(&self, name: &str) -> bool {
        let selector = [vec![Matcher::equal(METRIC_NAME, name)]];
        self.0.snapshot.label_names(&selector, TimeRange::ALL, 1).is_ok_and(|l| !l.is_empty())
    }
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        vec!["caches".into()]
    }
    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if name != "caches" {
            return Ok(None);
        }
        let table: Arc<dyn TableProvider> = Arc::new(self.0.caches.table()?);
        Ok(Some(table))
    }
    fn table_exist(&self, name: &str) -> bool {
        name == "caches"
    }
}
