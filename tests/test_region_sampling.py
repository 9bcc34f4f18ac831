"""Sampling in boxes gives what torchvision's roi_align gives."""

import torch
from torchvision.ops import roi_align

from models.grounding_dino.region_sampling import Regions, sample_regions


def test_equals_roi_align_inside_across_and_beyond_the_border() -> None:
    generator = torch.Generator().manual_seed(0)
    source = torch.randn((3, 5, 9, 14), generator=generator)
    corners = torch.rand((40, 2), generator=generator) * 1.6 - 0.3
    regions = torch.cat([corners, corners + torch.rand((40, 2), generator=generator) * 0.6], dim=1)
    images = torch.randint(0, 3, (40,), generator=generator)
    rows = torch.cat([images[:, None].float(), regions * torch.tensor([14.0, 9, 14, 9])], dim=1)
    expected = roi_align(source, rows, (6, 4), sampling_ratio=1, aligned=True)
    assert (expected == 0).any()
    assert (expected != 0).any()
    for layout in (torch.contiguous_format, torch.channels_last):
        given = source.contiguous(memory_format=layout)
        (samples,) = sample_regions(given, images, [Regions(regions, 6, 4)])
        torch.testing.assert_close(samples, expected, atol=2e-5, rtol=1e-4)


WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


def test_regions_of_the_whole_map_and_of_a_half_give_the_map_and_the_half() -> None:
    source = torch.arange(24.0).view(1, 2, 3, 4)
    asked = [Regions(WHOLE, 3, 4), Regions(torch.tensor([[0.5, 0.0, 1.0, 1.0]]), 3, 2)]
    whole, half = sample_regions(source, torch.tensor([0]), asked)
    torch.testing.assert_close(whole, source)
    torch.testing.assert_close(half, source[..., 2:])


def test_no_region_gives_none() -> None:
    asked = [Regions(torch.zeros(0, 4), 5, 6), Regions(torch.zeros(0, 4), 1, 2)]
    samples = sample_regions(torch.ones(2, 3, 4, 4), torch.zeros(0, dtype=torch.long), asked)
    assert [part.shape for part in samples] == [(0, 3, 5, 6), (0, 3, 1, 2)]


def test_the_gradient_reaches_the_map() -> None:
    source = torch.zeros((1, 2, 4, 4), requires_grad=True)
    (samples,) = sample_regions(source, torch.tensor([0]), [Regions(WHOLE, 4, 4)])
    samples.sum().backward()
    assert source.grad is not None
    torch.testing.assert_close(source.grad, torch.ones_like(source))
