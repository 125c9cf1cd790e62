"""Networks of the paper, and skorch nets that learn their sizes from the data."""

from sksetsens.networks._dfcnn import DFCNN
from sksetsens.networks._nets import (
    DFCNNBinaryClassifier,
    DFCNNClassifier,
    DFCNNRegressor,
    ResNetClassifier,
)
from sksetsens.networks._resnet import ResNet
from sksetsens.networks._settling import TrainAndSettle
from sksetsens.networks._sizes import data_sizes, missing_sizes

__all__ = [
    "DFCNN",
    "DFCNNBinaryClassifier",
    "DFCNNClassifier",
    "DFCNNRegressor",
    "ResNet",
    "ResNetClassifier",
    "TrainAndSettle",
    "data_sizes",
    "missing_sizes",
]
