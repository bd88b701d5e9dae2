"""In which number formats a network computes. This module decides it, for training and for evaluation."""
from src.framework import mindspore, nn


class Precision:
    """What an `amp_level` means for a network.

    Weights are float32 at each level. MindSpore reads these settings when it compiles a network, so they must be
    made before a step is called for the first time.

    Args:
        amp_level: 'O0' (float32), 'O2' (float16 in convolutions and dense layers) or 'O3' (float16 throughout).
    """

    def __init__(self, amp_level='O0'):
        self.amp_level = amp_level
        self.is_float32 = amp_level == 'O0'

    def for_training(self, network):
        """Let `network` compute at this level."""
        if self.is_float32:
            return
        network.to_float(mindspore.float16 if self.amp_level == 'O3' else mindspore.float32)
        if self.amp_level == 'O2':
            for _, cell in network.cells_and_names():
                if isinstance(cell, (nn.Conv2d, nn.Dense)):
                    cell.to_float(mindspore.float16)

    def for_evaluation(self, network):
        """Let `network` compute in float32, also if it is being trained at another level."""
        if not self.is_float32:
            network.to_float(mindspore.float32)
