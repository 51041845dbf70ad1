"""FEBSLoss in a training loop as MONAI's users write it: dictionaries, a cache, one output channel, no cast."""

import numpy as np
import pytest
import torch

from fairloss import FEBSLoss
from fairloss.functional import sample_dice_loss

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def test_a_small_unet_learns_from_dictionaries():
    data = pytest.importorskip("monai.data")
    nets = pytest.importorskip("monai.networks.nets")
    transforms = pytest.importorskip("monai.transforms")
    items = []
    for i in range(12):
        image, mask = data.create_test_image_2d(
            32, 32, num_objs=3, rad_max=8, num_seg_classes=1, random_state=np.random.RandomState(i)
        )
        items.append({"img": image.astype(np.float32), "seg": mask.astype(np.float32), "group": i % 2})
    steps = transforms.Compose(
        [
            transforms.EnsureChannelFirstd(keys=["img", "seg"], channel_dim="no_channel"),
            transforms.ScaleIntensityd(keys="img"),
            transforms.RandRotate90d(keys=["img", "seg"], prob=0.5),
        ]
    )
    cached = data.CacheDataset(items, steps, progress=False)
    loader = data.DataLoader(cached, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nets.UNet(spatial_dims=2, in_channels=1, out_channels=1, channels=(4, 8), strides=(2,))
    optimizer = torch.optim.Adam(model.parameters(), 3e-2)
    loss_function = FEBSLoss(2, num_classes=1, activation="sigmoid", squared_pred=False)
    losses = []
    for _ in range(12):
        for batch_data in loader:
            optimizer.zero_grad()
            loss = loss_function(model(batch_data["img"]), batch_data["seg"], batch_data["group"])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])
    batch_data = next(iter(loader))
    dice = 1 - sample_dice_loss(model(batch_data["img"]), batch_data["seg"], activation="sigmoid")
    assert dice.shape == (4,)
