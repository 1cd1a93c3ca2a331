"""Small masks for tests, as a run leaves them."""

from geoseg.maps.create import create_masks


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
