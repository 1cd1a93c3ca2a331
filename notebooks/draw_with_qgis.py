"""Draw a map and its polygons as QGIS opens them, without a screen.

    python3 notebooks/draw_with_qgis.py masks.tif regions.gpkg picture.png

Runs in the Python that has QGIS (Debian: python3-qgis), with nothing of geoseg in it:
colours and names come from what lies in and beside the files.
"""

import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qgis.core import (
    QgsApplication,
    QgsMapRendererSequentialJob,
    QgsMapSettings,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QPoint, QRect, QSize
from qgis.PyQt.QtGui import QColor, QFont, QImage, QPainter

SIDE, LEGEND, GAP, LINE = 460, 130, 14, 28  # pixels


def drawn(layer, extent):
    """Return the layer as QGIS draws it."""
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setOutputSize(QSize(SIDE, SIDE))
    settings.setExtent(extent)
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    return job.renderedImage()


def legend(layer):
    """Return names and colours of QGIS's legend."""
    renderer = layer.renderer()
    if isinstance(layer, QgsRasterLayer):
        return [(c.label, c.color) for c in renderer.classes()]
    return [(c.label(), c.symbol().color()) for c in renderer.categories()]


def panel(painter, layer, extent, left):
    """Draw a layer, and its legend beside it."""
    painter.drawImage(QPoint(left, 0), drawn(layer, extent))
    painter.drawRect(left, 0, SIDE - 1, SIDE - 1)
    at = left + SIDE + GAP
    painter.drawText(at, 18, layer.name())
    for row, (name, color) in enumerate(legend(layer), start=1):
        box = QRect(at, row * LINE + 2, 22, 16)
        painter.fillRect(box, color)
        painter.drawRect(box)
        painter.drawText(at + 32, row * LINE + 16, name)


def main(raster, regions, out):
    """Draw both side by side; print what QGIS calls the classes."""
    QgsApplication.setPrefixPath("/usr", True)  # else coordinate systems are not found
    application = QgsApplication([], False)
    application.initQgis()
    layers = [
        QgsRasterLayer(raster, os.path.basename(raster)),
        QgsVectorLayer(regions, os.path.basename(regions), "ogr"),
    ]
    for layer in layers:
        if not layer.isValid():
            sys.exit(f"QGIS cannot open {layer.source()}")
        print(layer.name(), layer.crs().authid(), [n for n, _ in legend(layer)])
    width = SIDE + GAP + LEGEND
    image = QImage(2 * width, SIDE, QImage.Format_RGB32)
    image.fill(QColor("white"))
    painter = QPainter(image)
    painter.setFont(QFont("DejaVu Sans", 10))
    near = layers[0].extent()
    near.scale(0.4)
    panel(painter, layers[0], layers[0].extent(), 0)
    panel(painter, layers[1], near, width)
    painter.end()
    image.save(out)
    del painter, layer
    layers.clear()  # before what they hang on
    application.exitQgis()


main(*sys.argv[1:])
