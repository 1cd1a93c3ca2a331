"""Small masks for tests, as a run leaves them, or one that is killed."""

from contextlib import suppress

from geoseg.maps.create import create_masks
from geoseg.maps.storage import Storage


def write_masks(
    path, values, *, grid, table, chunk=64, done=True, zarr_format=2, run=None, **arrays
):
    """Write class values (y, x), and other arrays by name; return the masks.

    Args:
        path: The store.
        values: Of the array `classes`.
        grid: Where they are.
        table: The class table.
        chunk: Side of chunks and blocks.
        done: Whether the run was complete.
        zarr_format: Of the store.
        run: What it says of the run beside its name.
        arrays: Others by name, such as `confidence`.
    """
    masks = create_masks(
        str(path), grid=grid, classes=table, chunk=chunk, block=chunk, settings={},
        arrays=["classes", *arrays], provenance={"run": str(path), **(run or {})},
        zarr_format=zarr_format,
    )  # fmt: skip
    for name, array in {"classes": values, **arrays}.items():
        masks.write(name, grid.window, array)
    if done:
        masks.finish({})
    return masks


def killed_in(monkeypatch, call, puts):
    """Call what writes to a store, and kill it in a write; say whether it was killed.

    Args:
        monkeypatch: Pytest's.
        call: Without arguments.
        puts: How many writes are whole before. Of the next one a part is left.
    """
    real, left = Storage.put, [puts]

    def put(self, name, data):
        if not left[0]:
            folder = self.path(name).parent
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f".tmp-{'0' * 32}").write_bytes(data[:9])
            raise KeyboardInterrupt
        left[0] -= 1
        real(self, name, data)

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Storage, "put", put)
        call()
        return False
    return True
