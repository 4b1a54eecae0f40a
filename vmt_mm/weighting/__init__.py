"""How the losses of the tasks become one objective."""

from vmt_mm.weighting.dynamic import DynamicWeightAverage as DynamicWeightAverage
from vmt_mm.weighting.famo import FAMO as FAMO
from vmt_mm.weighting.geometric import GeometricMean as GeometricMean
from vmt_mm.weighting.geometric import LogSum as LogSum
from vmt_mm.weighting.gradient import GradientAggregation as GradientAggregation
from vmt_mm.weighting.gradient import task_gradients as task_gradients
from vmt_mm.weighting.random import RandomWeighting as RandomWeighting
from vmt_mm.weighting.tchebycheff import SmoothTchebycheff as SmoothTchebycheff
from vmt_mm.weighting.uncertainty import Uncertainty as Uncertainty
from vmt_mm.weighting.weighting import FixedWeighting as FixedWeighting
from vmt_mm.weighting.weighting import Weighting as Weighting
from vmt_mm.weighting.weighting import build_weighting as build_weighting
