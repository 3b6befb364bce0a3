"""From a frame as FFmpeg decodes it to the picture that a player would show: RGB, upright, without alpha."""

from typing import Any

import numpy as np

from .frame_source import Picture, picture_of

_BT709, _BT601, _BT2020 = 1, 5, 9
_MATRICES = {1: _BT709, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: _BT2020, 10: _BT2020}
"""swscale's colour matrix for the colour space that a frame declares.

Source: FFmpeg, AVColorSpace in libavutil/pixfmt.h and SWS_CS_* in libswscale/swscale.h.
"""
_HD_WIDTH, _HD_HEIGHT = 1280, 577
"""From this size on, players read an undeclared colour space as BT.709, below as BT.601."""
_LIMITED, _FULL = 1, 2
_SQUARE = 1.0


def shown_picture(frame: Any, pixel_aspect: Any) -> Picture:
    """The picture of a decoded frame; its display matrix is applied, to the nearest quarter turn."""
    array = _rgb(frame)
    aspect = float(pixel_aspect or _SQUARE)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture_of(array, aspect)
    array, turned = upright(array, np.frombuffer(bytes(matrix), dtype=np.int32))
    return picture_of(array, 1 / aspect if turned else aspect)


def upright(array: Any, matrix: Any) -> tuple[Any, bool]:
    """The array turned and mirrored by a display matrix, and whether width and height changed places.

    Source: FFmpeg, libavutil/display.h: (p, q) is shown at (a p + c q, b p + d q), the matrix being a, b, u, c, d, v, …
    """
    right, down, turned = matrix[0], matrix[4], False
    if abs(matrix[0]) < abs(matrix[3]):
        array, right, down, turned = array.swapaxes(0, 1), matrix[3], matrix[1], True
    return array[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1], turned


def _rgb(frame: Any) -> Any:
    """Shapes: `h w 3`, or `h w 4` with alpha; uint8"""
    has_alpha = any(component.is_alpha for component in frame.format.components)
    colours = {} if frame.format.is_rgb else _colours(frame)
    return frame.reformat(format="rgba" if has_alpha else "rgb24", **colours).to_ndarray()


def _colours(frame: Any) -> dict[str, int]:
    """How luma and chroma are to be read, said in full: PyAV 16 ignores what the frame declares."""
    matrix = _MATRICES.get(int(frame.colorspace), _usual_matrix(frame))
    is_full = int(frame.color_range) == _FULL or frame.format.name.startswith("yuvj")
    return {
        "src_colorspace": matrix,
        "dst_colorspace": _BT709 if matrix == _BT601 else _BT601,  # means nothing for RGB; PyAV 16 acts on a difference
        "src_color_range": _FULL if is_full else _LIMITED,
        "dst_color_range": _FULL,
    }


def _usual_matrix(frame: Any) -> int:
    return _BT709 if frame.width >= _HD_WIDTH or frame.height >= _HD_HEIGHT else _BT601
