"""GeoPackage 1.3 (OGC 12-128r17), written directly: one transaction, then the index.

The geometries come as GeoPackage bytes already, so that a row is one SQLite insert. The
R-tree's nodes are packed whole as rows come (Leutenegger et al. 1997, "STR: a simple
and efficient algorithm for R-tree packing") instead of being inserted one by one.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import RegionsError
from geoseg.maps.styles import STYLE, STYLES, qml, sld

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from pyproj import CRS

    from geoseg.vector.table import RegionLayer, Rows

_APPLICATION = 0x47504B47  # "GPKG"
_VERSION = 10300
_TYPES = {"integer": "INTEGER", "real": "REAL", "text": "TEXT"}
_OWN_SRS = 100_000  # for a CRS that no authority numbers
_SRS_COLUMNS = (
    "srs_name", "srs_id", "organization", "organization_coordsys_id", "definition",
    "description",
)  # fmt: skip
_SECOND = "definition_12_063"  # which GeoPackages of other programs may lack
_AT_ONCE = 20  # rows inserted by one statement, where SQLite takes so many values
_BATCH = 20  # such statements prepared at a time: more do not stay in the cache

_TABLES = """
CREATE TABLE IF NOT EXISTS gpkg_spatial_ref_sys (
  srs_name TEXT NOT NULL, srs_id INTEGER NOT NULL PRIMARY KEY,
  organization TEXT NOT NULL, organization_coordsys_id INTEGER NOT NULL,
  definition TEXT NOT NULL, description TEXT,
  definition_12_063 TEXT NOT NULL DEFAULT 'undefined');
CREATE TABLE IF NOT EXISTS gpkg_contents (
  table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL,
  identifier TEXT UNIQUE, description TEXT DEFAULT '',
  last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER,
  CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id)
    REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE IF NOT EXISTS gpkg_geometry_columns (
  table_name TEXT NOT NULL, column_name TEXT NOT NULL, geometry_type_name TEXT NOT NULL,
  srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL,
  CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name),
  CONSTRAINT uk_gc_table_name UNIQUE (table_name),
  CONSTRAINT fk_gc_tn FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
  CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id)
    REFERENCES gpkg_spatial_ref_sys (srs_id));
CREATE TABLE IF NOT EXISTS gpkg_extensions (
  table_name TEXT, column_name TEXT, extension_name TEXT NOT NULL,
  definition TEXT NOT NULL, scope TEXT NOT NULL,
  CONSTRAINT ge_tce UNIQUE (table_name, column_name, extension_name));
CREATE TABLE IF NOT EXISTS gpkg_metadata (
  id INTEGER CONSTRAINT m_pk PRIMARY KEY ASC NOT NULL,
  md_scope TEXT NOT NULL DEFAULT 'dataset', md_standard_uri TEXT NOT NULL,
  mime_type TEXT NOT NULL DEFAULT 'text/xml', metadata TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS gpkg_metadata_reference (
  reference_scope TEXT NOT NULL, table_name TEXT, column_name TEXT,
  row_id_value INTEGER,
  timestamp DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
  md_file_id INTEGER NOT NULL, md_parent_id INTEGER,
  CONSTRAINT crmr_mfi_fk FOREIGN KEY (md_file_id) REFERENCES gpkg_metadata(id),
  CONSTRAINT crmr_mpi_fk FOREIGN KEY (md_parent_id) REFERENCES gpkg_metadata(id));
CREATE TABLE IF NOT EXISTS gpkg_ogr_contents (
  table_name TEXT NOT NULL PRIMARY KEY, feature_count INTEGER DEFAULT NULL);
"""

_EXTENSIONS = (
    (
        "gpkg_spatial_ref_sys",
        "definition_12_063",
        "gpkg_crs_wkt",
        "http://www.geopackage.org/spec/#extension_crs_wkt",
    ),
    (
        "gpkg_metadata",
        None,
        "gpkg_metadata",
        "http://www.geopackage.org/spec/#extension_metadata",
    ),
    (
        "gpkg_metadata_reference",
        None,
        "gpkg_metadata",
        "http://www.geopackage.org/spec/#extension_metadata",
    ),
)

# GeoPackage 1.3, annex F.3 and, for the counts, what GDAL keeps up to date.
_TRIGGERS = """
CREATE TRIGGER "rtree_{t}_geom_insert" AFTER INSERT ON "{t}"
  WHEN (new."geom" NOT NULL AND NOT ST_IsEmpty(NEW."geom"))
  BEGIN INSERT OR REPLACE INTO "rtree_{t}_geom" VALUES {new}; END;
CREATE TRIGGER "rtree_{t}_geom_update1" AFTER UPDATE OF "geom" ON "{t}"
  WHEN OLD."fid" = NEW."fid" AND
    (NEW."geom" NOTNULL AND NOT ST_IsEmpty(NEW."geom"))
  BEGIN INSERT OR REPLACE INTO "rtree_{t}_geom" VALUES {new}; END;
CREATE TRIGGER "rtree_{t}_geom_update2" AFTER UPDATE OF "geom" ON "{t}"
  WHEN OLD."fid" = NEW."fid" AND (NEW."geom" ISNULL OR ST_IsEmpty(NEW."geom"))
  BEGIN DELETE FROM "rtree_{t}_geom" WHERE id = OLD."fid"; END;
CREATE TRIGGER "rtree_{t}_geom_update3" AFTER UPDATE ON "{t}"
  WHEN OLD."fid" != NEW."fid" AND
    (NEW."geom" NOTNULL AND NOT ST_IsEmpty(NEW."geom"))
  BEGIN DELETE FROM "rtree_{t}_geom" WHERE id = OLD."fid";
    INSERT OR REPLACE INTO "rtree_{t}_geom" VALUES {new}; END;
CREATE TRIGGER "rtree_{t}_geom_update4" AFTER UPDATE ON "{t}"
  WHEN OLD."fid" != NEW."fid" AND (NEW."geom" ISNULL OR ST_IsEmpty(NEW."geom"))
  BEGIN DELETE FROM "rtree_{t}_geom" WHERE id IN (OLD."fid", NEW."fid"); END;
CREATE TRIGGER "rtree_{t}_geom_delete" AFTER DELETE ON "{t}"
  WHEN old."geom" NOT NULL
  BEGIN DELETE FROM "rtree_{t}_geom" WHERE id = OLD."fid"; END;
CREATE TRIGGER "trigger_insert_feature_count_{t}" AFTER INSERT ON "{t}"
  BEGIN UPDATE gpkg_ogr_contents SET feature_count = feature_count + 1
    WHERE lower(table_name) = lower('{t}'); END;
CREATE TRIGGER "trigger_delete_feature_count_{t}" AFTER DELETE ON "{t}"
  BEGIN UPDATE gpkg_ogr_contents SET feature_count = feature_count - 1
    WHERE lower(table_name) = lower('{t}'); END;
"""
_NEW_BOX = (
    '(NEW."fid", ST_MinX(NEW."geom"), ST_MaxX(NEW."geom"), '
    'ST_MinY(NEW."geom"), ST_MaxY(NEW."geom"))'
)


def authority(crs: CRS) -> tuple[str, int]:
    """Return who numbers a CRS and its number; NONE and 100000 where none does."""
    known = crs.to_authority(min_confidence=100)
    if known is None or not known[1].isdigit():
        return "NONE", _OWN_SRS
    return known[0], int(known[1])


class GeoPackage:
    """A GeoPackage while a layer of regions is written into it.

    Where the file is there already, its other layers stay as they are.
    """

    def __init__(self, path: Path, layer: RegionLayer) -> None:
        from pyproj import CRS

        self._layer = layer
        self._crs = CRS.from_user_input(layer.crs)
        self._srs = authority(self._crs)[1]
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._begin()
        except BaseException:
            self._db.close()
            raise
        self._rtree = _RTree(self._db, f"rtree_{layer.name}_geom")
        self._count = 0
        self._present: set[int] = set()
        self._box = np.array([np.inf, np.inf, -np.inf, -np.inf])

    def _begin(self) -> None:
        """Begin the one transaction that writes the layer."""
        if self._one("SELECT count(*) FROM sqlite_master") == 0:
            self._run("PRAGMA page_size = 4096")
            self._run(f"PRAGMA application_id = {_APPLICATION}")
            self._run(f"PRAGMA user_version = {_VERSION}")
        # The file is beside its target and renamed when whole: no journal is needed.
        self._run("PRAGMA journal_mode = OFF")
        self._run("PRAGMA synchronous = OFF")
        self._run("PRAGMA locking_mode = EXCLUSIVE")
        self._run("BEGIN")
        self._create()

    def _run(self, sql: str, *values: Any) -> None:  # noqa: ANN401 - SQLite takes many
        self._db.execute(sql, values)

    def _one(self, sql: str, *values: Any) -> Any:  # noqa: ANN401 - SQLite has many
        row = self._db.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def _script(self, sql: str) -> None:
        """Run several statements inside the transaction."""
        statement = ""
        for line in sql.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                self._db.execute(statement)
                statement = ""

    def _create(self) -> None:
        """Create all tables; the layer's triggers come last, after its rows."""
        layer = self._layer
        self._script(_TABLES + STYLES)
        self._add_reference_systems()
        columns = "".join(f', "{f.name}" {_TYPES[f.kind]}' for f in layer.fields)
        kind = layer.geometry_type.upper()
        self._run(
            f'CREATE TABLE "{layer.name}" (fid INTEGER PRIMARY KEY AUTOINCREMENT '
            f'NOT NULL, "geom" {kind}{columns})'
        )
        extensions = [
            *_EXTENSIONS,
            (
                layer.name,
                "geom",
                "gpkg_rtree_index",
                "http://www.geopackage.org/spec/#extension_rtree",
            ),
        ]
        for *what, definition in extensions:
            scope = "write-only" if what[2] == "gpkg_rtree_index" else "read-write"
            if not self._one(
                "SELECT 1 FROM gpkg_extensions WHERE table_name IS ? AND column_name "
                "IS ? AND extension_name = ?",
                *what,
            ):
                self._run(
                    "INSERT INTO gpkg_extensions VALUES (?,?,?,?,?)",
                    *what, definition, scope,
                )  # fmt: skip

    def _add_reference_systems(self) -> None:
        """Add the layer's CRS and those that every GeoPackage has."""
        own = self._one(
            "SELECT definition FROM gpkg_spatial_ref_sys WHERE srs_id = ?", _OWN_SRS
        )
        table = self._db.execute("PRAGMA table_info(gpkg_spatial_ref_sys)")
        if _SECOND not in {column[1] for column in table}:
            self._run(
                f"ALTER TABLE gpkg_spatial_ref_sys ADD COLUMN {_SECOND} TEXT NOT NULL "
                "DEFAULT 'undefined'"
            )
        names = (*_SRS_COLUMNS, _SECOND)
        for row in _reference_systems(self._crs):
            if row[1] == _OWN_SRS and own not in (None, row[4]):
                raise RegionsError(
                    "the file has another CRS that no authority numbers, and one of "
                    "the masks has none either: write into a file of its own"
                )
            self._run(
                f"INSERT OR IGNORE INTO gpkg_spatial_ref_sys ({', '.join(names)}) "  # noqa: S608
                "VALUES (?,?,?,?,?,?,?)",
                *row,
            )

    def write(self, rows: Rows) -> None:
        """Append rows."""
        first = self._count + 1
        fids = range(first, first + len(rows))
        columns = [_values(rows.columns[f.name]) for f in self._layer.fields]
        _insert(self._db, self._layer.name, fids, rows.blobs(), *columns)
        self._rtree.add(first, rows.polygons.box)
        self._count += len(rows)
        self._present.update(np.unique(rows.columns["class_id"]).tolist())
        box = rows.polygons.box
        np.minimum(self._box[:2], box[:, :2].min(axis=0), out=self._box[:2])
        np.maximum(self._box[2:], box[:, 2:].max(axis=0), out=self._box[2:])

    def close(self) -> None:
        """Finish the index and the metadata, and commit."""
        layer = self._layer
        self._rtree.finish()
        box = self._box.tolist() if self._count else [None] * 4
        contents = (
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, "
            "min_x, min_y, max_x, max_y, srs_id) VALUES (?,?,?,?,?,?,?,?)"
        )
        self._run(contents, layer.name, "features", layer.name, *box, self._srs)
        self._run(
            contents.replace("INSERT", "INSERT OR IGNORE"),
            "layer_styles", "attributes", "layer_styles", *[None] * 4, None,
        )  # fmt: skip
        self._run(
            "INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', ?, ?, 0, 0)",
            layer.name, layer.geometry_type.upper(), self._srs,
        )  # fmt: skip
        self._run(
            "INSERT INTO gpkg_ogr_contents VALUES (?, ?)", layer.name, self._count
        )
        self._write_style()
        self._run(
            "INSERT OR REPLACE INTO gpkg_ogr_contents "
            "SELECT 'layer_styles', count(*) FROM layer_styles"
        )
        self._write_metadata()
        self._script(_TRIGGERS.format(t=layer.name, new=_NEW_BOX))
        self._run("COMMIT")
        self._db.close()

    def _write_style(self) -> None:
        layer = self._layer
        classes = layer.legend(self._present)
        sheets = qml(classes), sld(layer.name, classes)
        self._run(STYLE, layer.name, layer.name, *sheets, f"{len(classes)} classes")

    def _write_metadata(self) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        added = self._db.execute(
            "INSERT INTO gpkg_metadata (md_scope, md_standard_uri, mime_type, metadata)"
            " VALUES ('dataset', ?, 'application/json', ?)",
            (
                "https://schema.org/provenance",
                json.dumps({**self._layer.provenance, "written": now}, indent=1),
            ),
        )
        self._run(
            "INSERT INTO gpkg_metadata_reference VALUES "
            "('table', ?, NULL, NULL, ?, ?, NULL)",
            self._layer.name, now, added.lastrowid,
        )  # fmt: skip

    def abandon(self) -> None:
        """Close the file as it is."""
        self._db.close()


def _insert(db: sqlite3.Connection, table: str, *columns: Iterable[Any]) -> None:
    """Insert rows, several with each statement: that saves a third of the time."""
    row = f"({','.join('?' * len(columns))})"
    most = db.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    several = max(1, min(_AT_ONCE, most // len(columns)))
    left, width = [iter(column) for column in columns], len(columns)
    while first := list(islice(left[0], several * _BATCH)):
        # no tuple per row: thousands of them make Python look for garbage
        flat: list[Any] = [None] * (width * len(first))
        for i, column in enumerate(left):
            flat[i::width] = islice(column, len(first)) if i else first
        for count in (several, 1):
            step = count * width
            whole = len(flat) // step * step
            db.executemany(
                f'INSERT INTO "{table}" VALUES {",".join([row] * count)}',  # noqa: S608
                (flat[i : i + step] for i in range(0, whole, step)),
            )
            del flat[:whole]


def _values(column: NDArray[Any]) -> list[Any]:
    """Return a column as Python values, NaN as NULL."""
    values: list[Any] = column.tolist()
    if column.dtype.kind == "f" and np.isnan(column).any():
        return [None if v != v else v for v in values]  # noqa: PLR0124
    return values


def _reference_systems(crs: CRS) -> Iterator[tuple[Any, ...]]:
    """Return the rows that every GeoPackage has, and the layer's own."""
    import pyproj
    from pyproj.enums import WktVersion
    from pyproj.exceptions import CRSError

    yield (
        "Undefined Cartesian SRS", -1, "NONE", -1, "undefined",
        "undefined Cartesian coordinate reference system", "undefined",
    )  # fmt: skip
    yield (
        "Undefined geographic SRS", 0, "NONE", 0, "undefined",
        "undefined geographic coordinate reference system", "undefined",
    )  # fmt: skip
    for each in (crs, pyproj.CRS.from_epsg(4326)):
        try:
            first = each.to_wkt(WktVersion.WKT1_GDAL) or "undefined"
        except CRSError:  # not every CRS can be said in WKT 1
            first = "undefined"
        organization, number = authority(each)
        yield each.name, number, organization, number, first, None, _second(each)


def _second(crs: CRS) -> str:
    """Return WKT 2 of OGC 12-063 (2015); of 18-010 where only that can say it."""
    from pyproj.enums import WktVersion
    from pyproj.exceptions import CRSError

    try:
        return crs.to_wkt(WktVersion.WKT2_2015) or crs.to_wkt()
    except CRSError:
        return str(crs.to_wkt())


class _RTree:
    """SQLite's R*Tree tables, filled with whole nodes.

    A leaf is full of neighbours (by STR within what is added at once); only its box and
    number stay in memory, a fiftieth of what there is to index.
    """

    _CELLS = 51

    def __init__(self, db: sqlite3.Connection, name: str) -> None:
        self._db, self._name = db, name
        try:
            db.execute(
                f'CREATE VIRTUAL TABLE "{name}" USING rtree(id, minx, maxx, miny, maxy)'
            )
        except sqlite3.OperationalError as error:
            raise RegionsError(
                "this Python's SQLite has no R-tree module, which a GeoPackage needs: "
                f"write .parquet or .fgb, or use another Python ({error})"
            ) from error
        found = db.execute(f'SELECT length(data) FROM "{name}_node"').fetchone()  # noqa: S608
        self._bytes: int = found[0]
        self._next = 2  # node 1 is the root
        self._boxes: list[NDArray[np.float32]] = []
        self._nodes: list[NDArray[np.int64]] = []

    def add(self, first: int, box: NDArray[np.float64]) -> None:
        """Index rows numbered from `first` by their boxes minx, miny, maxx, maxy."""
        ids = np.arange(first, first + len(box))
        nodes, order, boxes = self._pack(ids, _rounded(box))
        self._nodes.append(nodes)
        self._boxes.append(boxes)
        leaf = np.empty(len(box), np.int64)
        leaf[order] = np.repeat(nodes, self._CELLS)[: len(box)]
        _insert(self._db, f"{self._name}_rowid", ids.tolist(), leaf.tolist())

    def finish(self) -> None:
        """Build the levels above the leaves; the last one is the root."""
        if not self._nodes:
            return
        nodes, boxes = np.concatenate(self._nodes), np.concatenate(self._boxes)
        depth = 0
        while len(nodes) > 1:
            parents, order, above = self._pack(nodes, boxes)
            parent = np.repeat(parents, self._CELLS)[: len(nodes)]
            depth += 1
            if len(parents) == 1:
                parent[:] = 1
            _insert(
                self._db, f"{self._name}_parent", nodes[order].tolist(), parent.tolist()
            )  # fmt: skip
            nodes, boxes = parents, above
        self._become_root(int(nodes[0]), depth)

    def _become_root(self, node: int, depth: int) -> None:
        table = f'"{self._name}_node"'
        data = self._db.execute(
            f"SELECT data FROM {table} WHERE nodeno = ?",  # noqa: S608
            (node,),
        ).fetchone()[0]
        self._db.execute(f"DELETE FROM {table} WHERE nodeno = ?", (node,))  # noqa: S608
        self._db.execute(
            f"UPDATE {table} SET data = ? WHERE nodeno = 1",  # noqa: S608
            (depth.to_bytes(2, "big") + data[2:],),
        )
        if depth == 0:
            self._db.execute(f'UPDATE "{self._name}_rowid" SET nodeno = 1')  # noqa: S608

    def _pack(
        self, ids: NDArray[np.int64], boxes: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.float32]]:
        """Write nodes of neighbours; return their numbers, the order, their boxes."""
        order = _tiles(boxes, self._CELLS)
        count = -(-len(ids) // self._CELLS)
        cell = np.zeros(
            count * self._CELLS, np.dtype([("id", ">i8"), ("box", ">f4", 4)])
        )
        cell["id"][: len(ids)] = ids[order]
        cell["box"][: len(ids)] = boxes[order]
        used = np.full(count, self._CELLS, ">u2")
        used[-1] = len(ids) - (count - 1) * self._CELLS
        data = np.zeros((count, self._bytes), np.uint8)
        data[:, 2:4] = used.view(np.uint8).reshape(count, 2)
        data[:, 4 : 4 + 24 * self._CELLS] = cell.view(np.uint8).reshape(count, -1)
        nodes = np.arange(self._next, self._next + count)
        self._next += count
        _insert(self._db, f"{self._name}_node", nodes.tolist(), map(bytes, data))
        starts = np.arange(count) * self._CELLS
        above = boxes[order]
        low, high = (
            np.minimum.reduceat(above, starts),
            np.maximum.reduceat(above, starts),
        )
        return nodes, order, np.where([True, False, True, False], low, high)


def _rounded(box: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return minx, maxx, miny, maxy as float32 that contain the box."""
    wide = box[:, [0, 2, 1, 3]]
    narrow = wide.astype(np.float32)
    down, up = np.float32(-np.inf), np.float32(np.inf)
    for k in (0, 2):
        late = narrow[:, k] > wide[:, k]
        narrow[late, k] = np.nextafter(narrow[late, k], down)
    for k in (1, 3):
        early = narrow[:, k] < wide[:, k]
        narrow[early, k] = np.nextafter(narrow[early, k], up)
    return narrow


def _tiles(boxes: NDArray[np.float32], cells: int) -> NDArray[np.intp]:
    """Return an order in which runs of `cells` boxes are neighbours (STR)."""
    x, y = boxes[:, 0] + boxes[:, 1], boxes[:, 2] + boxes[:, 3]
    nodes = -(-len(boxes) // cells)
    column = cells * int(np.ceil(np.sqrt(nodes)))
    by_x = np.argsort(x, kind="stable")
    which = np.empty(len(boxes), np.int64)
    which[by_x] = np.arange(len(boxes)) // column
    return np.lexsort((y, which))
