# mypy: ignore-errors
"""The fused pass as a template: read base and experts once, write the merge once.

Same bits as `merge_core.reference`, which see for the mathematics. `merge_core.kernels.unroll`
makes the straight-line code for N experts and the flags below; then numba compiles it
(`merge_core.kernels.compiled`).

Flags: DIFFERENCES (e - b is merged), GIVEN (experts that are given as
differences already), TRIM, BAND (the largest entries go too), DROP (random bits decide), RANK_DROP
(they decide by rank in the row), ELECTS (signs), RANKED (tie ranks are needed), RESTORED (experts
with slack, in order), REPLACE (a restored entry stands alone), BF16_OUT (the merge is bfloat16
held in uint16; otherwise float32), HALVES (elements in a word of the sources and of the merge: 1,
or 2), TREE (coefficients by selects, not by a look-up), TALLY (what became of the entries is
counted).

MAKES says what is made: "merge"; "magnitude", the high words of the trim keys of the only expert;
or "distance", those of the slack keys of expert COLLECT, NOT_ONE where an entry is no candidate.

Names with an index [k] are scalars per expert. Selects, never branches: what is in a loop over
elements must vectorize. Comparisons of magnitudes are on the bits of |delta| as integers.
"""


def block(
    base,
    experts,
    bits,
    ranks,
    out,
    tally,
    start,
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
):
    """Make the elements of `out`, which begin at flat index `start`.

    With HALVES = 2 sources and merge are words of two bfloat16 elements, the first in the low half:
    to widen a half is one operation, where each bfloat16 alone costs two.

    Expert k's difference stays after trimming where its key is below the bound (tau, cut): where
    |delta| > tau, or |delta| = tau and rank <= cut; with BAND unless it is below (top, top_cut)
    too. A candidate is restored where (distance, rank) <= (sigma, sigma_cut). `bits` are the 16
    random bits of DARE and DELLA; `ranks` index DELLA's `limits` (of the bits) and `scales`.
    `tally` [N, 4] counts: stayed after sparsifying, retained in the merge, lost, restored.
    """
    if TALLY:
        for k in range(N):
            stayed[k] = u32(0)  # as wide as the elements, so that the loop vectorizes
            retained[k] = u32(0)
            beaten[k] = u32(0)
            returned[k] = u32(0)
    for i in range(out.size):
        for h in range(HALVES):
            if DIFFERENCES:
                b = load(base[i], h)
            if RANKED:
                rank = mix(u32(u32(start + u32(HALVES * i + h)) ^ tensor_id))
            for k in range(N):
                delta[k] = load(experts[k][i], h)
                if DIFFERENCES and k not in GIVEN:
                    delta[k] = f32(delta[k] - b)
                if MAKES == "magnitude":
                    out[i] = u32(u32(0x7FFFFFFF) - magnitude(delta[k]))
                else:
                    if RANK_DROP:
                        spot = ranks[k][i]
                        term[k] = f32(delta[k] * scales[k][spot])
                        stays[k] = u32(bits[k][i]) < limits[k][spot]
                    else:
                        term[k] = f32(delta[k] * factors[k])
                    if TRIM:
                        stays[k] = magnitude(delta[k]) >= u32(tau[k] + u32(rank > cut[k]))
                    if BAND:
                        stays[k] = stays[k] & (
                            magnitude(delta[k]) < u32(top[k] + u32(rank > top_cut[k]))
                        )
                    if DROP:
                        stays[k] = u32(bits[k][i]) < drop[k]
                    if SPARSE:
                        term[k] = term[k] if stays[k] else ZERO
            if MAKES != "magnitude":
                # A sum starts with its first term: started at +0 it would lose -0.
                total = term[0]
                for k in range(1, N):
                    total = f32(total + term[k])

            if ELECTS and MAKES != "magnitude":
                flip = u32(0) if total >= ZERO else SIGN
                for k in range(N):
                    kept[k] = from_bits(u32(to_bits(term[k]) ^ flip)) > ZERO
                if RESTORED:
                    opponent = u32(0)
                    for k in range(N):
                        strength = magnitude(delta[k])
                        rival = strength if kept[k] else u32(0)
                        opponent = rival if rival > opponent else opponent
                    for k in range(N):
                        lost[k] = (term[k] != ZERO) & (not kept[k])
                    free = True
                    for q in RESTORED:
                        gap = from_bits(magnitude(delta[q])) - from_bits(opponent)
                        distance = magnitude(f32(gap))
                        open = free & lost[q]
                        if q == COLLECT:
                            out[i] = distance if open else NOT_ONE
                        else:
                            near = distance < u32(sigma[q] + u32(rank <= sigma_cut[q]))
                            taken = open & near
                            if REPLACE:
                                for k in range(N):
                                    kept[k] = kept[k] & (not taken)
                            kept[q] = kept[q] | taken
                            free = free & (not taken)
                            if TALLY:
                                returned[q] = u32(returned[q] + u32(taken))
                if MAKES == "merge":
                    total = term[0] if kept[0] else ZERO
                    for k in range(1, N):
                        total = f32(total + (term[k] if kept[k] else ZERO))
                    if TREE:
                        for m in range(2**N):
                            choice[m] = table[m]
                        for k in range(N):
                            for m in range(2 ** (N - 1 - k)):
                                choice[m] = choice[2 * m + 1] if kept[k] else choice[2 * m]
                        coefficient = choice[0]
                    else:
                        subset = 0
                        for k in range(N):
                            subset = subset | (2**k if kept[k] else 0)
                        coefficient = table[subset]
            elif MAKES == "merge":
                coefficient = table[2**N - 1]

            if MAKES == "merge":
                merged = f32(total * coefficient)
                if DIFFERENCES:
                    merged = f32(b + merged)
                if not BF16_OUT:
                    out[i] = merged
                elif HALVES == 1:
                    out[i] = round_bf16(merged)
                elif h == 0:
                    low = round_bf16(merged)
                else:
                    out[i] = u32(u32(low) | u32(u32(round_bf16(merged)) << u32(16)))
                if TALLY:
                    for k in range(N):
                        some = term[k] != ZERO
                        if ELECTS:
                            retained[k] = u32(retained[k] + u32(some & kept[k]))
                            beaten[k] = u32(beaten[k] + u32(some & (not kept[k])))
                        else:
                            retained[k] = u32(retained[k] + u32(some))
                        if SPARSE:
                            stayed[k] = u32(stayed[k] + u32(stays[k]))
                        else:
                            stayed[k] = u32(stayed[k] + u32(1))
    if TALLY:
        for k in range(N):
            tally[k, 0] += stayed[k]
            tally[k, 1] += retained[k]
            tally[k, 2] += beaten[k]
            tally[k, 3] += returned[k]


def blocks(
    base,
    experts,
    ranks,
    out,
    tally,
    starts,
    stride,
    width,
    low,
    high,
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
    """Run `block` over rows of `width` elements, in pieces of BLOCK that stay in a cache.

    Row r lies at r * stride in the sources (flat index `starts[r]` of its tensor) and at
    r * width in the merge. What is returned and what `out` is depends on MAKES:

    "merge": (elements that are not finite, 0, 0); `out` is the merge.
    otherwise with HISTOGRAM: (0, 0, 0); the high words' upper 16 bits are counted in `out`.
    otherwise: (candidates, those whose high word is below `low`, those in [low, high]); the keys
    of the last are written to `out` as far as they fit.
    """
    first, second, third = 0, 0, 0
    if MAKES != "merge":
        scratch = np.empty(BLOCK, np.uint32)
    if DROP or RANK_DROP:
        words = np.empty((N, BLOCK // 4 + 2), np.uint64)
    # The last element of an odd row has no other half: the last two are made together, again.
    whole = width - width % HALVES
    for row in range(starts.size):
        for piece in range(-(-whole // BLOCK) + width % HALVES):
            s = piece * BLOCK
            f, new = min(s + BLOCK, whole), s
            if s >= whole:
                s, f, new = width - 2, width, width - 1
            start = starts[row] + s
            left, right = row * stride + s, row * stride + f
            for k in range(N):
                if HALVES == 2:
                    part[k] = experts[k][left:right].view(np.uint32)
                else:
                    part[k] = experts[k][left:right]
                if RANK_DROP:
                    place[k] = ranks[k][left:right]
            if DROP or RANK_DROP:
                counter, offset = start >> 3, start & 7
                for k in range(N):
                    fill_bits(
                        words[k, : 2 * ((offset + f - s + 7) >> 3)],
                        counter,
                        k,
                        tensor_id,
                        key0,
                        key1,
                    )
                    half[k] = words[k].view(np.uint16)[offset : offset + f - s]
            if HALVES == 2:
                own = base[left:right].view(np.uint32)
                target = out[row * width + s : row * width + f].view(np.uint32)
            else:
                own = base[left:right]
                if MAKES == "merge":
                    target = out[row * width + s : row * width + f]
                else:
                    target = scratch[: f - s]
            block(
                own,
                *part,
                *half,
                *place,
                target,
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
            if MAKES == "merge":
                first += not_finite(out[row * width + new : row * width + f])
            elif HISTOGRAM:
                count_high(target, out)
            else:
                candidates, below, inside = census(target, low, high)
                first += candidates
                second += below
                if inside > 0 and third + inside <= out.size:
                    gather(target, low, high, u32(start), tensor_id, out[third : third + inside])
                third += inside
    return first, second, third
