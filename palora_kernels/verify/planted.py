"""The bugs of `mutants`: what a slip of the pen in a kernel, or in what launches it, would be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """``text`` occurs once in ``file`` and becomes ``planted``; ``tests``: which should notice, as pytest takes them."""

    file: str
    reason: str
    tests: str
    text: str
    planted: str

    def __str__(self) -> str:
        return f"{self.file.removeprefix('palora_kernels/').removeprefix('triton/')}: {self.reason}"


_EXACT = "tests/test_triton_exact.py -k "
_FOLDER = "palora_kernels/triton/"


def _linear() -> Iterator[Bug]:
    def of(name: str, tests: str, *slips: tuple[str, str, str]) -> Iterator[Bug]:
        for reason, text, planted in slips:
            yield Bug(f"{_FOLDER}{name}.py", reason, _EXACT + tests, text, planted)

    yield from of(
        "linear/product",
        "factored or split and not splitk",
        ("the last step of K is not masked", "            in_k = k < K - k0\n            x = tl.load(", "            in_k = k < K\n            x = tl.load("),
        ("rows past the end are read", "    in_row = row < rows\n", "    in_row = row < rows + 1\n"),
        ("the last row is not written", "    in_y = in_row[:, None] & in_o[None, :]\n", "    in_y = (row < rows - 1)[:, None] & in_o[None, :]\n"),
        ("W is taken for its transpose", "w_offsets = grid_offsets(k, o, w_in, w_out, W_IN_ALIGN, W_OUT_ALIGN)", "w_offsets = grid_offsets(k, o, w_out, w_in, W_IN_ALIGN, W_OUT_ALIGN)"),
        ("every column tile stores S", "            if column_tile == 0:\n", "            if column_tile >= 0:\n"),
        ("S is stored after Lam", "tl.store(s_ptr + s_offsets, s.to(dtype), mask=in_s)", "tl.store(s_ptr + s_offsets, (s * 2).to(dtype), mask=in_s)"),
        ("a row's ray is the next one's", "        ray = row // n\n", "        ray = (row + 1) // n\n"),
        ("a shared input's common bias is left out", "        if bias_ptr is not None and not BIAS_PER_RAY:\n", "        if bias_ptr is not None and BIAS_PER_RAY and rows < 0:\n"),
        ("a shared input's bias is that of the first ray", "bias_ptr + step(m, bias_ray) + o.to", "bias_ptr + step(0, bias_ray) + o.to"),
        ("of a shared input's S only the first columns count", "                y = acc\n                for j0 in range(0, R, BR):", "                y = acc\n                for j0 in range(0, BR, BR):"),
        ("all rays of a shared input have the first one's lam", "                    scaled *= lam_of(lam_ptr, m, jj, jj < R", "                    scaled *= lam_of(lam_ptr, 0, jj, jj < R"),
        ("the results of a shared input's rays overlap", "tl.store(y_ptr + step(m, 1) * rows * O + y_offsets", "tl.store(y_ptr + step(m, 1) * (rows - 1) * O + y_offsets"),
        ("the sum over rays leaves out the last", "                    for m in range(M):\n", "                    for m in range(M - 1):\n"),
        ("the sum over rays reads U0 of the first", "s_ptr + step(m, 1) * rows * R + grid_offsets", "s_ptr + step(0, 1) * rows * R + grid_offsets"),
        ("acc is rounded before the adapters' part is added", "            acc = tl.dot(scaled.to(dtype), out, acc, input_precision=PRECISION)\n        else:", "            acc = tl.dot(scaled.to(dtype), out, acc.to(dtype).to(tl.float32), input_precision=PRECISION)\n        else:"),
        ("the sum is rounded before the bias is added", "                acc += tl.load(bias_ptr + bias_offsets, mask=in_y, other=0.0).to(tl.float32)", "                acc = acc.to(dtype).to(tl.float32) + tl.load(bias_ptr + bias_offsets, mask=in_y, other=0.0).to(tl.float32)"),
        ("a bias that is one number a ray has the output's stride", '"bias_col": bias.stride(-1)}', '"bias_col": 1 - bias.dim() // 2 * 1 + bias.dim() // 2 * bias.shape[-1]}'),
    )  # fmt: skip
    yield from of(
        "linear/project",
        "(split or wide) and not splitk",
        ("the second column tile is the first", "j = (tl.program_id(0) % column_tiles) * BR", "j = (tl.program_id(0) % column_tiles) * 16"),
        ("the last step of K is left out", "    for k0 in range(0, K, BK):", "    for k0 in range(0, K - BK, BK):"),
        ("columns of S past R are stored", "    in_j = j < R\n", "    in_j = j < R + 1\n"),
    )  # fmt: skip
    yield from of(
        "linear/rays",
        "shared-factored or without",
        ("rows past a ray's end are read", "in_g = (q // BM < M) & (in_ray < n)", "in_g = (q // BM < M) & (in_ray < n + 1)"),
        ("the sum leaves out the last ray", "    in_g = (q // BM < M) &", "    in_g = (q // BM < M - 1) &"),
        ("the sums overlap", "at = sum_ptr + o0 + grid_offsets(i, o, O, 1)", "at = sum_ptr + o0 + grid_offsets(i, o, O - 1, 1)"),
        ("a ray's rows are n - 1 apart", "row = (q // BM).to(tl.int64) * n + in_ray", "row = (q // BM).to(tl.int64) * (n - 1) + in_ray"),
    )  # fmt: skip
    yield from of(
        "linear/weights",
        "factored or per-row-split",
        ("the splits' common length is cut, and the last forgets the remainder", "    chunk = tl.cdiv(tl.cdiv(rows, splits), BP) * BP\n    start", "    chunk = tl.cdiv(rows // splits, BP) * BP - BP * (rows // splits > BP)\n    start"),
        ("the last split reads past the end", "    last = tl.minimum(start + chunk, rows)\n\n", "    last = start + chunk\n\n"),
        ("dA of a shared input sees the first ray's rows", "                last = tl.minimum(start + all_chunk, rows * M)", "                last = tl.minimum(start + all_chunk, rows)"),
        ("S of a shared input is read past its rows", "                s_row = row % rows\n", "                s_row = row // M\n"),
        ("the splits of dA write over each other", "tl.store(da_ptr + moved + offsets", "tl.store(da_ptr + offsets"),
        ("the splits of db write over each other", "tl.store(dbias_ptr + moved + o", "tl.store(dbias_ptr + o"),
        ("the column of ones is that of the last factor", "            ones = R\n", "            ones = R - 1\n"),
        ("the bias is summed in every column tile", "here = in_o & (r_tile == ones // BR)", "here = in_o & (r_tile == 0)"),
        ("dA is stored as (T, r, O)", "offsets = ((j // r).to(tl.int64) * O * r + j % r)[None, :] + (o.to(tl.int64) * r)[:, None]", "offsets = ((j // r).to(tl.int64) * O * r + j % r * O)[None, :] + (o.to(tl.int64))[:, None]"),
        ("dA sees the previous row's ray", "scaled *= lam_rows(lam_ptr, row // n, j, in_p, j < R, r", "scaled *= lam_rows(lam_ptr, tl.maximum(row - 1, 0) // n, j, in_p, j < R, r"),
        ("dB leaves out the last ray of a shared input", "            for m in range(M):\n", "            for m in range(M - 1):\n"),
        ("dB has no Lam", "            u *= lam_rows(lam_ptr, row // n, j, in_p, in_j, r, lam_ray, lam_task)\n", ""),
        ("the tiles of dB are counted along K", "b_tile // k_tiles, b_tile % k_tiles", "b_tile % k_tiles, b_tile // k_tiles"),
        ("dW of a shared input reads the first ray's G", "                common_ptr, x_ptr, dw_ptr + moved", "                g_ptr, x_ptr, dw_ptr + moved"),
    )  # fmt: skip
    yield from of(
        "linear/sums",
        "per-row or delta or shared-library or wide",
        ("the plain sum over rays is weighted", "c = tl.where(e < COMMON, 1.0, c)", "c = tl.where(e < COMMON - 1, 1.0, c)"),
        ("element e takes the lam of the next task", "(e - COMMON).to(tl.int64) * lam_task", "e.to(tl.int64) * lam_task"),
        ("the sum over rays leaves out the last", "    for m in range(M):\n        g = tl.load(", "    for m in range(M - 1):\n        g = tl.load("),
        ("the elements' sums overlap", "out_offsets = e.to(tl.int64)[:, None] * n * O", "out_offsets = e.to(tl.int64)[:, None] * (n - 1) * O"),
        ("a bias' sum stops before the last split", "    last = tl.minimum((split + 1) * chunk, n)\n    offsets", "    last = tl.minimum((split + 1) * chunk, n - n % BP)\n    offsets"),
        ("a ray's bias sums the next ray's rows", "g_ptr + (step(m, n) + p0) * g_row", "g_ptr + (step(m, n - 1) + p0) * g_row"),
        ("dlam stops at 64 columns of a task", "        for j0 in range(0, r, BR):", "        for j0 in range(0, BR, BR):"),
        ("dlam takes the columns of the first task", "            column = (t * r + j0 + j)[None, :]", "            column = (j0 + j)[None, :]"),
        ("dlam's second block of rays is the first", "m = ray_block * BM + q // BI", "m = q // BI"),
        ("the splits of dlam write over each other", "tl.store(out_ptr + step(split, split_stride) + ray", "tl.store(out_ptr + ray"),
        ("dlam of a shared input reads another ray's S", "            s_row = row.to(tl.int64)\n", "            s_row = u_row // 2\n"),
    )  # fmt: skip
    yield from of(
        "linear/basis",
        "delta and basis",
        ("W has the strides of D's first axis", "w_at = tl.where(e == 0, w_ptr, d_ptr + step(e - 1, d_task))", "w_at = tl.where(e == 0, w_ptr, d_ptr + step(e, d_task))"),
        ("the last element is left out", "    for i in range(elements * steps):", "    for i in range(elements * steps - steps):"),
        ("W is scaled by the first task's lam", "mask=in_row & (t >= 0), other=1.0)", "mask=in_row, other=1.0)"),
        ("each element reads the same x", "x_at = x_ptr + step(e, x_element) + step(k0, x_col)", "x_at = x_ptr + step(k0, x_col)"),
        ("x o lam is another ray's", "    ray = row // n\n", "    ray = tl.maximum(row - 1, 0) // n\n"),
    )  # fmt: skip
    yield from of(
        "linear/combine",
        "True and basis",
        ("the deltas lie one element too early", "from_d = tl.maximum(t, 0).to(tl.int64) * d_task", "from_d = tl.maximum(t - 1, 0).to(tl.int64) * d_task"),
        ("the common part is weighted", "        c = tl.where(task < 0, 1.0, c)\n", "        c = tl.where(task < 0, 2.0, c)\n"),
        ("the rays' results overlap", "y_at = y_ptr + step(m, O) * rows + y_offsets", "y_at = y_ptr + step(m, O) * (rows - 1) + y_offsets"),
        ("the last task is left out", "in_column = (column_o < O) & (t < T)", "in_column = (column_o < O) & (t < T - 1)"),
    )  # fmt: skip
    yield from of(
        "linear/basis_weights",
        "delta and basis",
        ("the last split forgets the remainder", "    last = tl.minimum((split + 1) * chunk, rows)", "    last = tl.minimum((split + 1) * chunk, rows - rows % BP)"),
        ("D's gradients lie one task too far", "dd_ptr + step(t, O) * K + out_offsets", "dd_ptr + step(0, O) * K + out_offsets"),
        ("a frozen W's place is written by the first task", "    t = e - COMMON\n", "    t = e\n"),
        ("G is weighted by another task's lam", "+ step(t, lam_task), mask=in_p & (t >= 0)", "+ step(0, lam_task), mask=in_p & (t >= 0)"),
        ("the elements' sums over rays are all the first", "g_at = g_ptr + step(e, g_element) + step(p0, g_row)", "g_at = g_ptr + step(p0, g_row)"),
    )  # fmt: skip
    yield from of(
        "linear/basis_lam",
        "delta and basis",
        ("all tasks have the first delta", "grid_offsets(k, o, d_in, d_out) + step(t, d_task)", "grid_offsets(k, o, d_in, d_out)"),
        ("a shared input's rays all read the first one's G", "g_at = g_ptr + step(m, g_row) * rows + g_offsets", "g_at = g_ptr + g_offsets"),
        ("the column tiles write over each other", "* o_tiles + o_tile\n", "* o_tiles\n"),
    )  # fmt: skip
    yield from of(
        "linear/splitk",
        "splitk",
        ("the last split forgets the remainder", "    chunk = tl.cdiv(tl.cdiv(K, splits), BK) * BK\n    start = split * chunk\n    last = tl.minimum(start + chunk, K)", "    chunk = tl.cdiv(tl.cdiv(K, splits), BK) * BK\n    start = split * chunk\n    last = tl.minimum(start + chunk, K - K % BK)"),
        ("two splits count the same columns", "    start = split * chunk\n", "    start = split * (chunk - 1)\n"),
        ("S begins where Y does", "tl.store(to + s_start + grid_offsets(row, j", "tl.store(to + grid_offsets(row, j"),
        ("the splits write over each other", "to = partial_ptr + step(split, width) * rows", "to = partial_ptr + step(0, width) * rows"),
    )  # fmt: skip
    yield from of(
        "linear/splitk_sum",
        "splitk",
        ("the last split is not added to Y", "                for i in tl.static_range(SPLITS):\n                    acc", "                for i in tl.static_range(SPLITS - 1):\n                    acc"),
        ("Y begins anew with every stretch of columns", "            if BASE and j0 == 0:", "            if BASE:"),
        ("a shared input's second ray reads past the sums", "    of = row % rows\n", "    of = row\n"),
        ("every column tile stores S", "& in_j[None, :] & (column_tile == 0)", "& in_j[None, :] & (column_tile >= 0)"),
        ("Y is rounded before the bias", "                acc += bias.to(tl.float32)[None, :]\n        tl.store(y_ptr", "                acc = acc.to(dtype).to(tl.float32) + bias.to(tl.float32)[None, :]\n        tl.store(y_ptr"),
    )  # fmt: skip
    yield from of(
        "linear/persistent",
        "persistent",
        ("the adapters' last step is left out", "    steps = base_steps + tl.cdiv(C, BK)\n", "    steps = base_steps + C // BK\n"),
        ("the adapters' columns begin at K", "                k = (i - base_steps) * BK", "                k = (i - base_steps + 1) * BK"),
        ("a tile is walked in another order than it is numbered", "row_tile, column_tile = tile_of(tile, row_tiles, column_tiles, GROUP)", "row_tile, column_tile = tile_of(tile, column_tiles, row_tiles, GROUP)"),
        ("the accumulator is not cleared between tiles", "        acc = tl.zeros((BM, BN), tl.float32)\n        for i in range(steps):", "        if tile == tl.program_id(0):\n            acc = tl.zeros((BM, BN), tl.float32)\n        for i in range(steps):"),
    )  # fmt: skip
    yield from of(
        "linear/extend",
        "persistent",
        ("the ones of a bias a ray are the next ray's", "            which = ray\n", "            which = ray + 1\n"),
        ("the column of a bias is that of the last factor", "one = (j - R)[None, :] == which[:, None]", "one = (j - R + 1)[None, :] == which[:, None]"),
        ("the bias begins a column early", "grid_offsets(o, j - R, bias_col, bias_ray)", "grid_offsets(o, j - R + 1, bias_col, bias_ray)"),
    )  # fmt: skip


def _conv() -> Iterator[Bug]:
    def of(name: str, tests: str, *slips: tuple[str, str, str]) -> Iterator[Bug]:
        for reason, text, planted in slips:
            yield Bug(f"{_FOLDER}{name}.py", reason, tests, text, planted)

    yield from of(
        "merge/merge",
        "tests/test_triton_merge.py tests/test_triton_conv.py tests/test_triton_exact.py -k walk or one_rounding or (exact and merged)",
        ("a program's second ray is its first", "        at = merged + step(ray, 1) * p * q + to\n", "        at = merged + step(first_ray, 1) * p * q + to\n"),
        ("the next program begins a ray late", "first_ray = pid // (tiles_m * tiles_n) * rays_each", "first_ray = pid // (tiles_m * tiles_n) * (rays_each + 1)"),
        ("columns behind the first sixteen are left out", "            for j0 in range(0, R, BR):", "            for j0 in range(0, BR, BR):"),
        ("the merged weight is rounded before W is added", "tl.store(at, (base + delta).to(merged.dtype.element_ty), mask=ok)", "tl.store(at, (base + delta.to(merged.dtype.element_ty).to(tl.float32)).to(merged.dtype.element_ty), mask=ok)"),
        ("channels and taps change places", "within % taps * channels + within // taps\n    base", "within % channels * taps + within // channels\n    base"),
        ("W in channels_last is read as if it were not", "base += tl.load(weight + (to if WEIGHT_LAST else viewed)", "base += tl.load(weight + viewed"),
        ("dense deltas: the second block of rays is the first", "    ray = pid // blocks * RAYS + tl.arange(0, RAYS)\n    ok", "    ray = pid // blocks + tl.arange(0, RAYS)\n    ok"),
        ("dense deltas: the last task is left out", "    for t in range(tasks):", "    for t in range(tasks - 1):"),
        ("pulled back in torch: every task has the same lam", "columns = lam.repeat_interleave(r, dim=1)[:, None, :]", "columns = lam.repeat(1, r)[:, None, :]"),
    )  # fmt: skip
    yield from of(
        "merge/pull",
        "tests/test_triton_merge.py tests/test_triton_conv.py -k walk or pulled",
        ("a program's last tile is left out", "tl.minimum((stretch + 1) * tiles_each, tiles_n)", "tl.minimum((stretch + 1) * tiles_each - 1, tiles_n)"),
        ("dA begins anew with every tile", "        db_tile = tl.zeros((BR, BN), dtype=tl.float32)\n", "        db_tile = tl.zeros((BR, BN), dtype=tl.float32)\n        da_tile = tl.zeros((BM, BR), dtype=tl.float32)\n"),
        ("dB is the last ray's alone", "one, db_tile, input_precision=PRECISION)", "one, input_precision=PRECISION)"),
        ("the first split alone is added", "            for split in range(splits):", "            for split in range(1):"),
        ("dA has no Lam", "            da_tile += projected * scale[None, :]", "            da_tile += projected"),
        ("the shares of dlam write over each other", "(step(tile, tiles_m) + row_tile) * rays * R", "step(tile, tiles_m) * rays * R"),
    )  # fmt: skip
    products = "tests/test_triton_conv.py tests/test_triton_exact.py -k tile_by_tile or (exact and merged and conv)"
    yield from of(
        "conv/gemm_kernel",
        products,
        ("the place left of the map counts as inside", "inside = row_ok & (h >= 0) &", "inside = row_ok & (h >= -1) &"),
        ("gathered: the place below the map counts as inside", "inside = (h >= 0) & (h < source_h) & (w >= 0)", "inside = (h >= 0) & (h <= source_h) & (w >= 0)"),
        ("a group reads the first group's channels", "+ position * source_channels + group * channels_in", "+ position * source_channels"),
        ("a ray reads the first ray's kernel", "    b_cols += ray * weight_ray\n", ""),
        ("a bias a ray is the first ray's", "bias + ray * bias_ray + group * channels_out", "bias + group * channels_out"),
        ("padding is taken twice off the rows", "        offset_h = 0 - pad_h\n", "        offset_h = 0 - 2 * pad_h\n"),
        ("a residue class' first tap is another's", "first_tap(residue_h, pad_h, dilation_h, step_out_h, tap_step_h, kernel_h)", "first_tap(residue_h, pad_h, dilation_w, step_out_h, tap_step_h, kernel_h)"),
        ("the last chunk of channels is left out", "        chunks = tl.cdiv(channels_in, BK)\n", "        chunks = tl.maximum(channels_in // BK, 1)\n"),
        ("tap by tap: the sum over rays reads the first ray", "                a_at += inner * source_ray\n", ""),
        ("gathered: the sum over rays reads the first ray", "                a_k = a_k + inner * source_ray\n", ""),
    )  # fmt: skip
    yield from of(
        "conv/gemm",
        products,
        ("strides change places", "        step_in_h=shape.stride[0],\n        step_in_w=shape.stride[1],", "        step_in_h=shape.stride[1],\n        step_in_w=shape.stride[0],"),
        ("a bias a ray is taken for a common one", "bias_ray=0 if bias is None or bias.dim() == 1 else shape.outputs", "bias_ray=0"),
    )  # fmt: skip
    yield from of(
        "conv/kernel_gradient",
        products,
        ("the last stretch reads past a ray's end", "    last = tl.minimum(first + stretch, rows)\n", "    last = first + stretch\n"),
        ("the splits write over each other", "    workspace += (ray * splits + split) * part\n", "    workspace += ray * splits * part\n"),
        ("the sums for the bias lie a group too early", "* columns + group * channels_out\n", "* columns\n"),
        ("the last position of a stretch is left out", "        row_ok = row < last\n", "        row_ok = row < last - 1\n"),
        ("the gradient's dilation is one", "offset_w = tap % kernel_w * dilation_w - pad_w", "offset_w = tap % kernel_w - pad_w"),
        ("the kernels are stored as they were worked on", "(channels * taps) + channel * taps + tap\n", "(channels * taps) + tap * channels + channel\n"),
        ("the last split is not added", "        for split in range(splits):", "        for split in range(splits - 1):"),
    )  # fmt: skip
    yield from of(
        "conv/combine",
        _EXACT + "conv and basis",
        ("the second block of rays is the first", "ray = (pid // blocks).to(tl.int64) * RAYS + tl.arange(0, RAYS)", "ray = (pid // blocks).to(tl.int64) + tl.arange(0, RAYS)"),
        ("elements from the ninth on are left out", "e = rest % tl.cdiv(elements, ELEMENTS) * ELEMENTS + tl.arange(0, ELEMENTS)\n    own_ray", "e = rest % tl.cdiv(elements, ELEMENTS) + tl.arange(0, ELEMENTS)\n    own_ray"),
        ("the elements of a group lie one after another over all groups", "return at // group_outputs * (group_outputs * elements) + at % group_outputs", "return at"),
        ("a bias a ray is the first ray's", "bias + (ray * bias_ray)[:, None]", "bias + (ray * 0)[:, None]"),
        ("a ray's basis is the first ray's", "        source += own_ray * elements * numel\n", ""),
        ("every second block of the products is left out", "for block in range(own, tl.cdiv(numel, BLOCK), parts):", "for block in range(own, tl.cdiv(numel, BLOCK) - 1, parts):"),
        ("rays from the 33rd on have the first ones' products", ".to(tl.int64) * RAYS + tl.arange(0, RAYS)\n        total", ".to(tl.int64) * 0 + tl.arange(0, RAYS)\n        total"),
    )  # fmt: skip
    yield from of(
        "conv/adapters",
        _EXACT + "conv and factored",
        ("columns from the 33rd on are left out", "        for j0 in range(0, R, BR):", "        for j0 in range(0, BR, BR):"),
        ("the sum is rounded before the bias is added", "        acc += base\n", "        acc = (acc + base).to(y.dtype.element_ty).to(tl.float32)\n"),
        ("a shared input's rays have the first one's bias", "bias + step(m, bias_ray) + o", "bias + o"),
        ("U leaves out Lam", "            u += u0 * scale\n", "            u += u0\n"),
        ("the sum over rays of G is the last ray's", "total += tl.load(grad + at[:, None] * O", "total = tl.load(grad + at[:, None] * O"),
        ("the second block of columns writes the first one's products", "products + (step(tile_r, rows) * rays_of_products(SHARED, rays) + at) * tasks", "products + at * tasks"),
        ("a position's ray is the next one's", "        ray = row // positions\n", "        ray = (row + 1) // positions\n"),
    )  # fmt: skip


def _common() -> Iterator[Bug]:
    def of(file: str, tests: str, *slips: tuple[str, str, str]) -> Iterator[Bug]:
        for reason, text, planted in slips:
            yield Bug(file, reason, tests, text, planted)

    yield from of(
        _FOLDER + "launching/tiles.py",
        _EXACT + "stacked-factored or per-row-split or wide-split",
        ("the last group of row tiles is taken for whole", "height = tl.minimum(row_tiles - group * GROUP, GROUP)", "height = GROUP"),
        ("row tiles are walked as if there were one group", "return group * GROUP + within % height, within // height", "return within % height, within // height"),
        ("a factor's task is its rank", "return (j // r).to(tl.int64) * task_stride + (j % r).to(tl.int64) * rank_stride", "return (j % r).to(tl.int64) * task_stride + (j // r).to(tl.int64) * rank_stride"),
        ("lam's task is the column", "offsets = grid_offsets(ray, j // r, lam_ray, lam_task)", "offsets = grid_offsets(ray, j // r, lam_task, lam_ray)"),
    )  # fmt: skip
    yield from of(
        _FOLDER + "launching/tiles.py",
        "tests/test_triton_offsets.py",
        ("a matrix' offsets are 32 bits wide", "offsets = row.to(tl.int64)[:, None] * row_stride + column.to(tl.int64)[None, :] * column_stride", "offsets = row[:, None] * row_stride + column[None, :] * column_stride"),
        ("a loop's steps are 32 bits wide", "    return tl.cast(index, tl.int64) * stride\n", "    return tl.cast(index, tl.int32) * stride\n"),
        ("a factor's offsets are 32 bits wide", "return (j // r).to(tl.int64) * task_stride + (j % r).to(tl.int64) * rank_stride", "return (j // r) * task_stride + (j % r) * rank_stride"),
    )  # fmt: skip
    yield from of(
        _FOLDER + "launching/operands.py",
        _EXACT + "aligned or stacked-factored",
        ("runs are said to start at multiples where only sizes are", "return alignment(*others) if stride == 1 else 1", "return alignment(*others, 0) * 2 if stride == 1 else 1"),
        ("runs are said to be aligned whatever their distance", "return alignment(*others) if stride == 1 else 1", "return 16 if stride == 1 else 1"),
        ("A's strides of rank and of outputs change places", "A.stride(0), A.stride(2), A.stride(1))", "A.stride(0), A.stride(1), A.stride(2))"),
    )  # fmt: skip
    yield from of(
        _FOLDER + "linear/reduce.py",
        "tests/test_triton_exact.py tests/test_triton_races.py -k stacked-factored or sums",
        ("the last split is not added", "    for i in range(splits):", "    for i in range(splits - 1):"),
        ("the sum goes on from the first output's place", "_add(workspace_ptr + b_start, b_ptr", "_add(workspace_ptr + a_start, b_ptr"),
        ("the blocks of an output that is not there are counted", "        block -= tl.cdiv(a_size, BLOCK)\n", "        block -= tl.cdiv(a_size + BLOCK, BLOCK)\n"),
        ("the outputs of a split overlap", "end += 0 if t is None else -(-t.numel() // 16) * 16", "end += 0 if t is None else t.numel() // 16 * 16"),
    )  # fmt: skip
    yield from of(
        _FOLDER + "norm.py",
        "tests/test_triton_norm.py -k splits or without_scale or float32 and (planes or many_rays)",
        ("the last program's tiles are cut", "    for tile in range(split * tiles_each, tl.minimum((split + 1) * tiles_each, samples * across)):\n        sample = tile // across\n        p = tile % across * BP + tl.arange(0, BP)\n        inside = (p < positions)[:, None] & in_c[None, :]\n        x_tile = x_ptr + step(m, x_ray) + step(sample, x_sample)\n        d = tl.load(x_tile + grid_offsets(p, c, x_position, x_channel), mask=inside, other=0.0).to(tl.float32)\n        d = tl.where", "    for tile in range(split * tiles_each, tl.minimum((split + 1) * tiles_each, samples * across) - 1):\n        sample = tile // across\n        p = tile % across * BP + tl.arange(0, BP)\n        inside = (p < positions)[:, None] & in_c[None, :]\n        x_tile = x_ptr + step(m, x_ray) + step(sample, x_sample)\n        d = tl.load(x_tile + grid_offsets(p, c, x_position, x_channel), mask=inside, other=0.0).to(tl.float32)\n        d = tl.where"),
        ("masked places count as zeros minus the mean", "d = tl.where(inside, d - centre[None, :], 0.0)", "d = d - centre[None, :]"),
        ("the variance is not divided by the count", "tl.maximum(second / count - first * first, 0.0)", "tl.maximum(second / (count - 1) - first * first, 0.0)"),
        ("the running variance is the biased one", "factor * (new_var * (count / (count - 1.0)))", "factor * new_var"),
        ("the running statistics take the first ray only", "                for ray in range(M):\n                    new_mean", "                for ray in range(1):\n                    new_mean"),
        ("splits behind the first sixteen are not added", "    for i0 in range(0, splits, AT_ONCE):", "    for i0 in range(0, AT_ONCE, AT_ONCE):"),
        ("the scale's gradient is the last ray's", "                dw += second\n", "                dw = second\n"),
        ("dx leaves out the scale", "            outer *= tl.load(w_ptr + c, mask=in_c, other=0.0).to(tl.float32)\n", "            outer *= 1.0\n"),
    )  # fmt: skip


def _host() -> Iterator[Bug]:
    def of(file: str, tests: str, *slips: tuple[str, str, str]) -> Iterator[Bug]:
        for reason, text, planted in slips:
            yield Bug(file, reason, tests, text, planted)

    yield from of(
        _FOLDER + "launching/replay.py",
        "tests/test_triton_host.py -k key or absent or kinds or forced or tuned or assumed or layout_tells",
        ("the key lacks the address' alignment", "    address = tensor.data_ptr() & 15\n", "    address = 0\n"),
        ("the key lacks the strides", "tensor.shape, tensor.stride(), address", "tensor.shape, address"),
        ("the key lacks the dtype", "    return tensor.dtype, tensor.get_device()", "    return tensor.get_device()"),
        ("the key lacks the device", "    return tensor.dtype, tensor.get_device(), ", "    return tensor.dtype, "),
        ("the key leaves out absent tensors", "return (*map(layout, tensors), kind, switches, tuning.generation())", "return (*map(layout, (t for t in tensors if t is not None)), kind, switches, tuning.generation())"),
        ("the key lacks how float32 products run", "switches = configs.switches(first.dtype), autocast", "switches = None, autocast"),
        ("the key lacks what was tuned", "kind, switches, tuning.generation())", "kind, switches)"),
        ("an assumed target's launches are remembered", "if launch.is_recording() or configs.is_assumed() or", "if launch.is_recording() or"),
    )  # fmt: skip
    memory = "tests/test_triton_host.py -k results_from or repeated"
    yield from of(
        _FOLDER + "launching/capture.py",
        memory,
        ("a tensor given twice is one", "tensor.detach() if tensor is not None and any(tensor is t for t in given) else tensor", "tensor"),
        ("a view's distance is left out", "        self.base[id(out)] = root, distance + apart\n", "        self.base[id(out)] = root, distance\n"),
        ("keywords of an operation are left out", "    return partial(short, **keywords) if keywords else short", "    return short"),
        ("a result is given back before its last reader", "last[index] == number and index >= before and index != result", "index >= before and index != result"),
    )  # fmt: skip
    yield from of(
        "palora_kernels/direct.py",
        memory.replace("results_from", "results_from or forced or absent"),
        ("the key lacks the forced plan", "    return op, named, plans.forced(op), replay.frozen(options), layouts", "    return op, named, replay.frozen(options), layouts"),
    )  # fmt: skip
    yield from of(
        "palora_kernels/call.py",
        _EXACT + "shared-factored",
        ("a shared input's rows are taken for one ray's share", "return self.x.shape[0] if self.shared else self.x.shape[0] // self.lam.shape[0]", "return self.x.shape[0] // self.lam.shape[0]"),
    )  # fmt: skip
    yield from of(
        _FOLDER + "linear/plans.py",
        _EXACT + "shared-factored",
        ("dX of a shared input is that of stacked rows", 's_from="rays" if shared else "memory"', 's_from="memory"'),
    )  # fmt: skip
    yield from of(
        _FOLDER + "linear/library.py",
        "tests/test_triton_linear.py tests/test_triton_exact.py -k (low_rank or exact and not conv) and library",
        ("the base product's result is added after rounding", "        y.addmm_(x, weight.t())\n", "        y += x @ weight.t()\n"),
        ("dX adds W's transpose' product of the rays' own G", "            dx.addmm_(common, call.weight)\n", "            dx.addmm_(grad[: call.n], call.weight)\n"),
    )  # fmt: skip
    yield from of(
        _FOLDER + "conv/rays.py",
        _EXACT + "conv and library",
        ("a shared input's gradients are written over each other", "        if shape.shared and m > 0:\n", "        if shape.shared and m < 0:\n"),
        ("a ray's images begin one early", "t[m * shape.images : (m + 1) * shape.images]", "t[max(m - 1, 0) * shape.images : max(m, 1) * shape.images]"),
    )  # fmt: skip
    yield from of(
        _FOLDER + "launching/configs.py",
        "tests/test_triton_host.py tests/test_triton_conv.py tests/test_triton_linear.py -k precision or follows or candidate or settings",
        ("float32 products run in tf32 unasked", '    return "tf32" if kind(dtype) == "tf32" else "ieee"', '    return "tf32"'),
        ("convolutions follow the setting of products", "tf32 = versions.convolutions_in_tf32() if", "tf32 = versions.matmul_in_tf32() if"),
        ("a tile may hold more stages than there is memory", "if staged_bytes(held, kind, side) <= target.shared_memory:", "if staged_bytes(held, kind, 0) <= 2 * target.shared_memory:"),
    )  # fmt: skip
    yield from of(
        "palora_kernels/implementations.py",
        "tests/test_triton_empty.py",
        ("factors without a number go to the plan's kernels", "    if all(factor.numel() for factor in call.factors.given):", "    if call.factors.given:"),
    )  # fmt: skip
    eager = "tests/test_kernels_linear.py -k equals or zero_preference or only or strides"
    yield from of(
        "palora_kernels/eager/linear.py",
        eager,
        ("dB of a shared input is the first ray's", "            U = U.view(rays, n, R).sum(0)", "            U = U.view(rays, n, R)[0]"),
        ("dlam is made of S o Lam", "products = S.to(wide).view(1 if call.shared else rays, n, R)", "products = scaled(S, call, call.shared).to(wide).view(rays, n, R)"),
        ("a bias a ray is added to the next ray", "add_(call.bias[:, None, :])", "add_(call.bias.roll(1, 0)[:, None, :])"),
        ("A is read as (T, r, O)", "    return A.transpose(1, 2).reshape(A.shape[0] * A.shape[2], A.shape[1])\n", "    return A.reshape(A.shape[0] * A.shape[2], A.shape[1])\n"),
    )  # fmt: skip
    yield from of(
        "palora_kernels/factors.py",
        "tests/test_kernels_linear.py tests/test_kernels_conv.py -k equals or rank_one",
        ("a column's coefficient is that of another task", "return lam_m.to(self.A.dtype).repeat_interleave(self.r)", "return lam_m.to(self.A.dtype).repeat(self.r)"),
        ("the gradients of dense deltas are those of the last ray", "            into[0].addr_(lam_m.to(self.wide), grad)", "            into[0].copy_(torch.outer(lam_m.to(self.wide), grad))"),
    )  # fmt: skip
    yield from of(
        "palora_kernels/eager/merging.py",
        "tests/test_kernels_linear.py tests/test_kernels_conv.py -k equals or rank_one",
        ("the gradient of W is the first ray's", "                self.weight.add_(wide)\n", "                pass\n"),
    )  # fmt: skip
    yield from of(
        "palora_kernels/gradients.py",
        "tests/test_kernels_linear.py tests/test_triton_linear.py -k linear_equals or one_gradient",
        ("lam's gradient is asked for by the factors'", "flags[3] or flags[4], flags[5]]", "flags[3] or flags[4], flags[3]]"),
        ("a bias a ray is taken for a common one", "ctx.bias_dims = 0 if bias is None else bias.dim()", "ctx.bias_dims = 0 if bias is None else 1"),
    )  # fmt: skip


BUGS: tuple[Bug, ...] = (*_linear(), *_conv(), *_common(), *_host())
