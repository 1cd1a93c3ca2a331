"""The families of models: what they are called, and which module speaks for each.

Plain tables, read by `load.py`. A module is imported when its family is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

CLASSICAL = {
    "threshold": "geoseg.models.classical.threshold",
    "otsu": "geoseg.models.classical.threshold",
    "kmeans": "geoseg.models.classical.cluster",
    "gmm": "geoseg.models.classical.cluster",
    "slic": "geoseg.models.classical.superpixels",
    "grow": "geoseg.models.classical.grow",
}
"""`name:rest`: modules with `open_spec(spec) -> Opened`."""

FILES = {
    ".pt2": "geoseg.models.networks.exported",
    ".pt": "geoseg.models.networks.exported",
    ".pth": "geoseg.models.networks.exported",
    ".ts": "geoseg.models.networks.exported",
    ".torchscript": "geoseg.models.networks.exported",
    ".onnx": "geoseg.models.networks.onnx_file",
    ".ckpt": "geoseg.models.networks.checkpoint",
    ".safetensors": "geoseg.models.networks.checkpoint",
    ".tar": "geoseg.models.networks.checkpoint",
    ".bin": "geoseg.models.networks.checkpoint",
}
"""By the ending of a file: modules with `open_file(path) -> Opened`."""

_TENSORFLOW = (
    "turn it into ONNX: model.export('net.onnx', format='onnx') of Keras, or python -m "
    "tf2onnx.convert"
)
_ORIGIN = "give the .onnx or the checkpoint that it was made of"
_TREES = (
    "geoseg train --arch forest, extra-trees or boosting makes such models of the same "
    "labels, or write a function around it, PATH.py:FUNCTION"
)
_PICKLED = f"geoseg does not unpickle: export networks to .onnx; {_TREES}"
_PACKED = "unpack it: what it holds may be a model, such as a .onnx, .pt or .pth"
RASTERS = "rasters and models have places of their own, geoseg model check MODEL RASTER"
FOREIGN = {
    **dict.fromkeys((".tif", ".tiff", ".vrt", ".jp2", ".nc", ".img"), RASTERS),
    ".py": "name the function that makes it, PATH.py:FUNCTION",
    ".h5": _TENSORFLOW,
    ".hdf5": _TENSORFLOW,
    ".keras": _TENSORFLOW,
    ".pb": _TENSORFLOW,
    ".tflite": _TENSORFLOW,
    ".pdparams": "turn it into ONNX: paddle2onnx",
    ".pdmodel": "turn it into ONNX: paddle2onnx",
    ".xml": _ORIGIN,  # of OpenVINO
    ".mlmodel": _ORIGIN,
    ".mlpackage": _ORIGIN,
    ".engine": _ORIGIN,
    ".pte": _ORIGIN,
    ".pkl": _PICKLED,
    ".pickle": _PICKLED,
    ".sav": _PICKLED,
    ".joblib": _PICKLED,
    ".skops": _TREES,
    ".pmml": _TREES,
    ".ubj": _TREES,
    ".model": _TREES,
    ".cbm": _TREES,
    ".rds": _TREES,
    ".zip": _PACKED,
    ".dlpk": _PACKED,
    ".mar": _PACKED,
    ".emd": "give the .pth that it names, exported to .onnx",
}
"""By the ending of a file that is not opened: what its owner may do."""

FOLDERS = {
    "smp": "geoseg.models.networks.smp",
    "torchvision": "geoseg.models.networks.torchvision_nets",
    "transformers": "geoseg.models.networks.hf",
    "torch.export": "geoseg.models.networks.exported",
    "torchscript": "geoseg.models.networks.exported",
    "onnx": "geoseg.models.networks.onnx_file",
    "checkpoint": "geoseg.models.networks.checkpoint",
    "dynamicworld": "geoseg.models.networks.dynamic_world",
    "olmoearth": "geoseg.models.networks.olmoearth",
    "forest": "geoseg.models.classical.forest",
    "svm": "geoseg.models.classical.svm",
}
"""By `family` in a card's framework: modules with `load_folder(folder, options)`."""


@dataclass(frozen=True, slots=True)
class Family:
    """One line of `geoseg models`."""

    name: str
    """What the family is called."""
    example: str
    """What to write after `--model`."""
    summary: str
    """What it is good for, in a line."""
    extra: str | None = None
    """The extra of geoseg that brings its packages; None where nothing is needed."""
    packages: tuple[str, ...] = ()
    """The packages that it imports."""

    @property
    def installed(self) -> bool:
        """Whether all of its packages can be imported."""
        return all(find_spec(package) is not None for package in self.packages)


_SMP, _TRANSFORMERS = (
    ("segmentation_models_pytorch",),
    ("transformers", "huggingface_hub"),
)
_ALL = (
    Family("threshold", "threshold:ndwi", "a band, an index or an expression against a "
           "number: threshold:nir>12"),
    Family("otsu", "otsu:ndwi", "the same; the number is found from the whole raster's "
           "histogram; otsu:nir:4 finds three, for four classes"),
    Family("kmeans", "kmeans:6", "clusters of pixels by colour, fitted to a sample of "
           "the whole raster", "sklearn", ("sklearn",)),
    Family("gmm", "gmm:6", "likewise, a mixture of Gaussians: clusters of unlike size "
           "and shape", "sklearn", ("sklearn",)),
    Family("slic", "slic:16:6", "superpixels about 16 px wide, of 6 clusters by their "
           "mean colour", "superpixels", ("skimage", "sklearn")),
    Family("grow", "grow:seeds.gpkg", "regions grown from points, lines or polygons of "
           "a vector file; grow:seeds.gpkg:12:COLUMN, within 12 of a marker's value in "
           "every band"),
    Family("smp", "models/landcover", "a folder with card and weights: U-Net, U-Net++, "
           "FPN, DeepLabV3+, PAN, PSPNet, MAnet, LinkNet, UPerNet, SegFormer, DPT with "
           "any encoder", "models", _SMP),
    Family("torchvision", "models/buildings", "likewise: FCN, DeepLabV3, LR-ASPP; Mask "
           "R-CNN for instances", "models", ("torchvision",)),
    Family("transformers", "hf:nvidia/segformer-b0-finetuned-ade-512-512", "SegFormer, "
           "UPerNet, DPT, BEiT, MaskFormer, Mask2Former, OneFormer, EoMT: a folder "
           "that save_pretrained wrote, or hf:owner/name",
           "transformers", _TRANSFORMERS),
    Family("sam", "hf:facebook/sam2.1-hiera-tiny", "SAM, SAM-HQ, SAM 2, SAM 3's "
           "tracker, EdgeTAM: all objects, or those that points, boxes or polygons ask "
           "for: --prompts FILE", "transformers", _TRANSFORMERS),
    Family("onnx", "roads.onnx", "an ONNX file with a card beside it, or Deepness's "
           "metadata inside", "onnx", ("onnxruntime", "onnx")),
    Family("exported", "roads.pt2", "a program of torch.export (.pt2) or TorchScript "
           "(.pt), card beside it"),
    Family("checkpoint", "unet.ckpt", "a checkpoint of torchgeo's or terratorch's "
           "trainers, or a state_dict of a network that its card names",
           "models", _SMP),
    Family("dynamicworld", "models/dynamicworld", "Google's land cover from "
           "Sentinel-2, once imported: geoseg model import dynamicworld FOLDER"),
    Family("olmoearth", "models/crops", "OlmoEarth with a decoder, on twelve months of "
           "Sentinel-2, Sentinel-1 or Landsat: a folder with card and weights",
           "olmoearth", ("olmoearth_pretrain_minimal",)),
    Family("forest", "models/landcover-forest", "random forest, extra trees or boosted "
           "trees on bands, gradients, texture: a folder from geoseg train --arch "
           "forest, extra-trees, boosting"),
    Family("svm", "models/landcover-svm", "support vectors, or any linear classifier, "
           "on the same features: a folder from geoseg train --arch svm"),
    Family("own code", "my_module:make_model", "a function that returns (card, network "
           "or callable); or model.py:make"),
)  # fmt: skip


def families() -> tuple[Family, ...]:
    """Return the families that `--model` can name, and whether they are installed."""
    return _ALL
