# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_clipzoo.results.regions import Region, find_peak, find_regions


def test_regions_are_in_pixels_of_the_original_image():
    mask = np.zeros((10, 20), dtype=bool)
    mask[2:5, 4:10] = True
    mask[8, 15] = True
    assert find_regions(mask, (200, 50)) == [Region(40, 10, 60, 15, 900), Region(150, 40, 10, 5, 50)]


def test_an_l_shape_is_smaller_than_its_box_and_corners_connect():
    mask = np.zeros((6, 6), dtype=bool)
    mask[1, 1:4] = mask[1:4, 1] = mask[4, 2] = True
    assert find_regions(mask, (6, 6)) == [Region(1, 1, 3, 4, 6)]


def test_an_empty_mask_has_no_region_and_a_full_one_is_the_image():
    assert find_regions(np.zeros((5, 5)), (30, 40)) == []
    assert find_regions(np.ones((5, 5)), (33, 41)) == [Region(0, 0, 33, 41, 33 * 41)]


MASKS = st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=5, max_size=5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), MASKS)
def test_boxes_lie_within_the_image_whatever_the_sizes(width, height, rows):
    for region in find_regions(np.array(rows), (width, height)):
        assert region.x >= 0
        assert region.y >= 0
        assert region.x + region.width <= width
        assert region.y + region.height <= height
        assert region.area >= 1


def test_a_box_ends_with_the_image_where_floating_point_would_go_beyond():
    assert 7 * (29 / 7) > 29
    assert find_regions(np.ones((1, 7)), (29, 1)) == [Region(0, 0, 29, 1, 29)]


def test_the_peak_is_in_the_middle_of_the_maps_pixel():
    anomaly_map = np.zeros((10, 20))
    anomaly_map[3, 12] = 1
    assert find_peak(anomaly_map, (200, 50)) == (125, 17)
    assert find_peak(anomaly_map, (20, 10)) == (12, 3)
