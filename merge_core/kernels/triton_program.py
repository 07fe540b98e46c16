# mypy: ignore-errors
"""The frame of a Triton kernel, as a template: one program makes BLOCK elements of one row.

It stands where `template.blocks` stands on the CPU: it loads, makes random bits, calls
`template.block` and stores. `merge_core.kernels.triton_form` says how both are rewritten. Flags are
those of the template, and ALIGNED: each row begins at a multiple of 8 of its tensor.
"""


def program(
    base,
    experts,
    ranks,
    out,
    tally,
    bad,
    starts,
    stride,
    width,
    blocks,
    numbers,
    tensor_id,
    factors,
    tau,
    cut,
    top,
    top_cut,
    drop,
    limits,
    scales,
    sigma,
    sigma_cut,
    table,
    key0,
    key1,
):
    """Elements of rows of `width`, `blocks` programs a row; see `template.blocks`.

    What is made is written to `out`: the merge, or words of keys. The elements of a merge that are
    not finite are counted in `bad` [1] int64. `numbers` holds the bits of all scalars from
    `tensor_id` on.
    """
    index = tl.program_id(0)
    row = (index // blocks).to(tl.int64)
    first = (index % blocks).to(tl.int64) * BLOCK
    start = tl.load(starts + row) + first
    if DROP or RANK_DROP:
        if not ALIGNED:
            # Back to the beginning of a Philox block.
            lead = start & 7
            start = start - lead
            first = first - lead
        i = tl.arange(0, BLOCK // 8)[:, None] * 8 + tl.arange(0, 8)[None, :]
        live = (i < width - first) & (i >= -first)
    else:
        i = tl.arange(0, BLOCK)
        live = i < width - first
    left = row * stride + first
    for k in range(N):
        part[k] = tl.load(experts[k] + left + i, mask=live, other=0)
        if RANK_DROP:
            # Two bytes as an offset would be taken for a signed number.
            place[k] = tl.load(ranks[k] + left + i, mask=live, other=0).to(tl.int32)
        if DROP or RANK_DROP:
            half[k] = drop_bits(start, k, tensor_id, key0, key1, BLOCK, PHILOX_ROUNDS)
    if DIFFERENCES:
        own = tl.load(base + left + i, mask=live, other=0)
    else:
        own = part[0]
    made = block(
        own,
        *part,
        *half,
        *place,
        i,
        live,
        tally,
        u32(start),
        tensor_id,
        *factors,
        *tau,
        *cut,
        *top,
        *top_cut,
        *drop,
        *limits,
        *scales,
        *sigma,
        *sigma_cut,
        *table,
    )
    made = tl.cast(made, out.dtype.element_ty)
    tl.store(out + row * width + first + i, made, mask=live)
    if MAKES == "merge":
        count(bad, u32(not_finite(made)), live)
