# mypy: ignore-errors
"""The fused pass as a template: read base and experts once, write the merge once.

Same bits as `merge_core.reference`, which see for the mathematics. `merge_core.kernels.unroll`
makes the straight-line code for N experts and the flags below; then numba compiles it.

Flags: DIFFERENCES (e - b is merged), TRIM, DROP (how differences are made sparse), ELECTS (signs),
RANKED (tie ranks are needed), RESTORED (experts with slack, in order), REPLACE (a restored entry
stands alone), BF16_OUT (the merge is bfloat16 held in uint16; otherwise float32), TREE
(coefficients by selects, not by a look-up), COLLECT (at least 0: no merge, but the slack keys of
that expert's candidates).

Names with an index [k] are scalars per expert. Selects, never branches: what is in a loop over
elements must vectorize. Comparisons of magnitudes are on the bits of |delta| as integers.
"""


def block(
    base,
    experts,
    bits,
    out,
    start,
    tensor_id,
    factors,
    tau,
    cut,
    drop,
    sigma,
    sigma_cut,
    table,
):
    """Merge `out.size` elements that begin at flat index `start`; how many are not finite.

    Expert k's difference stays after trimming where its key is below the bound (tau, cut): where
    |delta| > tau, or |delta| = tau and rank <= cut. A candidate is restored where (distance,
    rank) <= (sigma, sigma_cut). `bits` are the 16 random bits of DARE.
    """
    if COLLECT < 0:
        count = u32(0)  # as wide as the elements, so that it vectorizes with them
    else:
        count = 0
    for i in range(experts[0].size):
        if DIFFERENCES:
            b = load(base[i])
        if RANKED:
            rank = mix(u32(u32(start + u32(i)) ^ tensor_id))
        for k in range(N):
            delta[k] = load(experts[k][i])
            if DIFFERENCES:
                delta[k] = f32(delta[k] - b)
            term[k] = f32(delta[k] * factors[k])
            if TRIM:
                stays = magnitude(delta[k]) >= u32(tau[k] + u32(rank > cut[k]))
                term[k] = term[k] if stays else ZERO
            if DROP:
                term[k] = term[k] if u32(bits[k][i]) < drop[k] else ZERO
        # A sum starts with its first term: started at +0 it would lose -0.
        total = term[0]
        for k in range(1, N):
            total = f32(total + term[k])

        if ELECTS:
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
                        if open:
                            out[count] = (u64(distance) << u64(32)) | u64(rank)
                            count += 1
                    else:
                        near = (distance < sigma[q]) | (
                            (distance == sigma[q]) & (rank <= sigma_cut[q])
                        )
                        taken = open & near
                        if REPLACE:
                            for k in range(N):
                                kept[k] = kept[k] & (not taken)
                        kept[q] = kept[q] | taken
                        free = free & (not taken)
            if COLLECT < 0:
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
        else:
            coefficient = table[2**N - 1]

        if COLLECT < 0:
            merged = f32(total * coefficient)
            if DIFFERENCES:
                merged = f32(b + merged)
            if BF16_OUT:
                rounded = round_bf16(merged)
                out[i] = rounded
                count = u32(count + u32((u32(rounded) & u32(0x7F80)) == u32(0x7F80)))
            else:
                out[i] = merged
                count = u32(count + u32((to_bits(merged) & u32(0x7F800000)) == u32(0x7F800000)))
    return count


def blocks(
    base,
    experts,
    out,
    start,
    tensor_id,
    factors,
    drop,
    sigma,
    sigma_cut,
    table,
    key0,
    key1,
):
    """As `block` with DROP, random bits made in blocks that stay in the cache; any `start`."""
    count = 0
    words = np.empty((N, BLOCK // 2 + 4), np.uint32)
    for s in range(0, experts[0].size, BLOCK):
        f = min(s + BLOCK, experts[0].size)
        first, offset = (start + s) >> 3, (start + s) & 7
        for k in range(N):
            fill_bits(words[k, : 4 * ((offset + f - s + 7) >> 3)], first, k, tensor_id, key0, key1)
            half[k] = words[k].view(np.uint16)[offset : offset + f - s]
            part[k] = experts[k][s:f]
        if COLLECT < 0:
            target = out[s:f]
        else:
            target = out[count:]
        count += block(
            base[s:f],
            *part,
            *half,
            target,
            u32(start + s),
            tensor_id,
            *factors,
            *drop,
            *sigma,
            *sigma_cut,
            *table,
        )
    return count
