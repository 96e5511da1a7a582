"""Compiled loops over a prediction table; `ensemble/score.py` explains what they compute.

Numba compiles them at first use and caches them beside this file; they run without the interpreter's lock, so threads
share the work.
"""

from __future__ import annotations

import numpy as np

from ensemble.lanes import LANES, WORDS, above, add, least, load, lowest, mark, store, subtract
from ofa.compiled import compiled

BITS = 5  # members of one group: tables hold the sum of every choice of them
CODES = 1 << BITS
SUBSETS = 4096  # subsets that are scored from a part of the tables while it is in the cache
CACHED = 5 * 2**16  # int16 of this part
CHANGED = 64  # subsets that are changed in one group of members before the next
FULL = 32000  # largest sum in a table; with at most one half of rounding a group, sums stay within int16

WRONG = -1  # an image that no subset classifies correctly


@compiled
def find_rivals(classes_NMK, probs_NMK, labels_N, slot_C, slack, count_N, rivals, below):  # type: ignore[no-untyped-def]
    """The classes that can beat the right class of each image: `count_N` of each image, their indices in `rivals`.

    The count is `WRONG` for an image that no subset classifies correctly, 0 for one that every subset classifies correctly.
    below: whether a rival's index is lower than the right class's, so that it wins a tie. slot_C is scratch, all -1.
    Returns the number of rivals written.
    """
    images, members, k = classes_NMK.shape
    most = len(rivals) // max(1, images)
    named = np.empty(min(len(slot_C), members * k) + 2, dtype=np.int64)
    p = np.zeros((len(named), members))
    total = np.zeros(len(named))
    kept = np.empty(most, dtype=np.int64)
    written = 0
    for n in range(images):
        label = labels_N[n]
        named[0], used = label, 1
        slot_C[label] = 0
        p[0] = 0.0
        silent = False  # a member that gives every class 0: alone it predicts class 0
        for m in range(members):
            if probs_NMK[n, m, 0] == 0:
                silent = True
            for j in range(k):
                c = classes_NMK[n, m, j]
                if slot_C[c] < 0:
                    slot_C[c] = used
                    named[used] = c
                    p[used] = 0.0
                    used += 1
                p[slot_C[c], m] = probs_NMK[n, m, j]
        if silent and slot_C[0] < 0:
            slot_C[0] = used
            named[used] = 0
            p[used] = 0.0
            used += 1
        for u in range(used):
            slot_C[named[u]] = -1
        number, hopeless = 0, False
        for u in range(1, used):
            ties_win = named[u] < label
            can, always = False, True
            for m in range(members):
                d = p[0, m] - p[u, m]
                margin = slack * max(p[0, m], p[u, m])
                if d < 0 or (ties_win and d <= margin and (p[0, m] > 0 or silent)):
                    can = True
                if not (d < -margin or (ties_win and d <= 0)):
                    always = False
            if always:
                hopeless = True
                break
            if can:
                total[u] = 0.0
                for m in range(members):
                    total[u] += p[u, m]
                at = number  # by descending sum; of equal sums one that wins ties first
                while at > 0:
                    v = kept[at - 1]
                    if total[v] > total[u] or (total[v] == total[u] and (named[v] < label or not ties_win)):
                        break
                    kept[at] = v
                    at -= 1
                kept[at] = u
                number += 1
        if hopeless:
            count_N[n] = WRONG
            continue
        alone = 0
        for a in range(number):
            u = kept[a]
            beaten = False
            for b in range(alone):
                v = kept[b]
                if named[u] < label and not named[v] < label:
                    continue
                covers = True
                for m in range(members):
                    if p[v, m] < p[u, m]:
                        covers = False
                        break
                if covers:
                    beaten = True
                    break
            if not beaten:
                kept[alone] = u
                alone += 1
        count_N[n] = alone
        for a in range(alone):
            rivals[written] = named[kept[a]]
            below[written] = named[kept[a]] < label
            written += 1
    return written


@compiled
def gather(classes_NMK, probs_NMK, labels_N, first_N, rivals_R, slot_C, right_IM, rival_RM):  # type: ignore[no-untyped-def]
    """The probabilities of right classes and rivals as dense arrays: image n has the rows first_N[n] to first_N[n + 1]."""
    images, members, k = classes_NMK.shape
    for n in range(images):
        slot_C[labels_N[n]] = 0
        for r in range(first_N[n], first_N[n + 1]):
            slot_C[rivals_R[r]] = 1 + r - first_N[n]
        for m in range(members):
            for j in range(k):
                slot = slot_C[classes_NMK[n, m, j]]
                if slot == 0:
                    right_IM[n, m] = probs_NMK[n, m, j]
                elif slot > 0:
                    rival_RM[first_N[n] + slot - 1, m] = probs_NMK[n, m, j]
        slot_C[labels_N[n]] = -1
        for r in range(first_N[n], first_N[n + 1]):
            slot_C[rivals_R[r]] = -1


@compiled
def fill_tables(probs, place_I, first_I, members, blocks, start, stop, tables):  # type: ignore[no-untyped-def]
    """The tables of blocks start to stop, flat: rounded sums of margins.

    A block (first image, rivals, rivals of the blocks before it) has a table [group and choice, rival, lane] for its images'
    first rivals, the second, and so on; an image with fewer rivals than its block repeats its first. Every row has its own
    scale: only signs are used.
    """
    images = len(place_I)
    groups = (members + BITS - 1) // BITS
    sums = np.zeros(CODES)
    for b in range(start, stop):
        first, depth, at = blocks[b, 0], blocks[b, 1], blocks[b, 2] * groups * CODES
        for lane in range(min(LANES, images - first)):
            here = place_I[first + lane]
            width = 1 + first_I[first + lane + 1] - first_I[first + lane]
            for q in range(depth):
                rival = 1 + q if 1 + q < width else 1
                up, down, largest = 0.0, 0.0, 0.0
                for m in range(members):
                    p = here + m * width
                    d = np.float64(probs[p]) - np.float64(probs[p + rival])
                    largest += max(probs[p], probs[p + rival])
                    if d > 0:
                        up += d
                    else:
                        down -= d
                # a step of the table must stay above what float64 sums in any order can differ by
                scale = FULL / max(max(up, down), largest * members * FULL * 2.0**-49, 1e-300)
                for g in range(groups):
                    for code in range(1, CODES):
                        low, bit = code & -code, 0
                        while (1 << bit) != low:
                            bit += 1
                        m = g * BITS + bit
                        d = np.float64(0.0)
                        if m < members:
                            p = here + m * width
                            d = np.float64(probs[p]) - np.float64(probs[p + rival])
                        sums[code] = sums[code ^ low] + d
                        entry = at + (g * CODES + code) * depth + q
                        tables[entry * LANES + lane] = np.int16(np.rint(sums[code] * scale))


@compiled
def is_right(i, chosen, start, stop, weights, probs, place_I, below_R, first_I):  # type: ignore[no-untyped-def]
    """Whether image i's right class wins the vote of the members chosen[start:stop], each with the weight at its place.

    Float64 sums, in the order of the members. No slices, which would be objects with reference counts.
    """
    first, place, width = first_I[i], place_I[i], 1 + first_I[i + 1] - first_I[i]
    right = 0.0
    for j in range(start, stop):
        right += weights[j] * np.float64(probs[place + chosen[j] * width])
    for r in range(1, width):
        rival = 0.0
        for j in range(start, stop):
            rival += weights[j] * np.float64(probs[place + chosen[j] * width + r])
        if rival > right or (rival == right and below_R[first + r - 1]):
            return False
    return True


@compiled
def name_right(weights_SM, image_I, probs, place_I, below_R, first_I, named_SN):  # type: ignore[no-untyped-def]
    """Writes to `named_SN` which images each vote classifies correctly; image i's column is image_I[i]."""
    for s in range(len(weights_SM)):
        weights_M = weights_SM[s]
        chosen = np.flatnonzero(weights_M)
        weights = weights_M[chosen]
        for i in range(len(image_I)):
            named_SN[s, image_I[i]] = is_right(i, chosen, 0, len(chosen), weights, probs, place_I, below_R, first_I)


@compiled
def count_decided(images, votes, weights_SM, probs, place_I, below_R, first_I, correct_S):  # type: ignore[no-untyped-def]
    """Adds to `correct_S` the pairs (image, vote) that are right, each decided in float64."""
    for j in range(len(images)):
        weights_M = weights_SM[votes[j]]
        chosen = np.flatnonzero(weights_M)
        if is_right(images[j], chosen, 0, len(chosen), weights_M[chosen], probs, place_I, below_R, first_I):
            correct_S[votes[j]] += 1


@compiled
def _entries(codes_G, entries):  # type: ignore[no-untyped-def]
    """The entries of a subset in a table, one for each group with members; returns their number.

    An empty subset has one entry, a block's zeros, and the number 0.
    """
    used = 0
    entries[0] = 0
    for g in range(len(codes_G)):
        if codes_G[g]:
            entries[used] = g * CODES + codes_G[g]
            used += 1
    return used


@compiled
def _sum(tables, at, step, entries, used):  # type: ignore[no-untyped-def]
    """The lanes' sums of a subset's entries for one rival: entry 0 is at `at`, and each has `step` int16."""
    total = load(tables, at + np.uint64(entries[0]) * step)
    for j in range(1, used):
        total = add(total, load(tables, at + np.uint64(entries[j]) * step))
    return total


@compiled
def _decided(margins, limit, first, chosen, begin, end, ones, words, probs, place_I, below_R, first_I):  # type: ignore[no-untyped-def]
    """The number of right images among those whose rounded margin is within `limit` of 0; lane 0 is the image `first`.

    chosen[begin:end]: the subset's members; ones: as many weights from there on; words: scratch.
    """
    right = 0
    mark(margins, limit, words)
    for w in range(WORDS):
        word = words[w]
        while word:
            i = first + w * (LANES // WORDS) + lowest(word)
            word &= word - np.uint64(1)
            if i < len(place_I) and is_right(i, chosen, begin, end, ones, probs, place_I, below_R, first_I):
                right += 1
    return right


@compiled
def _members(masks_SM, s, chosen, at):  # type: ignore[no-untyped-def]
    """Writes the members of subset s to chosen[at:]; returns the end."""
    for m in range(masks_SM.shape[1]):
        if masks_SM[s, m]:
            chosen[at] = m
            at += 1
    return at


@compiled
def _scratch(size):  # type: ignore[no-untyped-def]
    """A flat int16 array whose vectors do not cross lines of the cache."""
    room = np.empty(size + 32, dtype=np.int16)
    skip = (-room.ctypes.data % 64) // 2
    return room[skip : skip + size]


@compiled
def count_right(codes_SG, masks_SM, tables, blocks, start, stop, probs, place_I, below_R, first_I, correct_S):  # type: ignore[no-untyped-def]
    """Adds to `correct_S` the number of images of blocks start to stop that each subset classifies correctly; 0 if empty.

    `SUBSETS` subsets are scored for a few rivals at a time, while their part of the tables is in the cache.
    """
    subsets, groups = codes_SG.shape
    members, size = masks_SM.shape[1], np.uint64(groups * CODES * LANES)
    together = max(1, CACHED // (groups * CODES * LANES))
    entries = np.zeros((min(subsets, SUBSETS), groups + 1), dtype=np.uint32)
    used, ends = np.zeros(len(entries), dtype=np.int64), np.zeros(len(entries), dtype=np.int64)
    chosen, ones = np.empty(len(entries) * members, dtype=np.int64), np.ones(len(entries) * members)
    margins_S, words = _scratch(len(entries) * LANES), np.empty(WORDS, dtype=np.uint64)
    for from_s in range(0, subsets, SUBSETS):
        number = min(SUBSETS, subsets - from_s)
        for s in range(number):
            used[s] = _entries(codes_SG[from_s + s], entries[s])
            ends[s] = _members(masks_SM, from_s + s, chosen, s * members)
        for b in range(start, stop):
            first, depth, table = blocks[b, 0], blocks[b, 1], np.uint64(blocks[b, 2]) * size
            step = np.uint64(depth * LANES)
            for from_q in range(0, depth, together):
                to_q = min(depth, from_q + together)
                for s in range(number):
                    at = table + np.uint64(from_q * LANES)
                    margins = _sum(tables, at, step, entries[s], used[s])
                    for _ in range(from_q + 1, to_q):
                        at += np.uint64(LANES)
                        margins = least(margins, _sum(tables, at, step, entries[s], used[s]))
                    if from_q > 0:
                        margins = least(margins, load(margins_S, np.uint64(s * LANES)))
                    if to_q < depth:
                        store(margins_S, np.uint64(s * LANES), margins)
                    else:
                        limit = np.int16(used[s] // 2)
                        right = above(margins, limit)
                        correct_S[from_s + s] += right
                        if used[s] > 0 and above(margins, np.int16(-limit - 1)) > right:
                            correct_S[from_s + s] += _decided(
                                *(margins, limit, first, chosen, s * members, ends[s], ones, words),
                                *(probs, place_I, below_R, first_I),
                            )


@compiled
def _sums(tables, table, depth, entries, used, sums, at):  # type: ignore[no-untyped-def]
    """Writes to sums[at:] the lanes' sums of a subset's entries, for each of a block's rivals."""
    step = np.uint64(depth * LANES)
    for _ in range(depth):
        store(sums, at, _sum(tables, table, step, entries, used))
        table += np.uint64(LANES)
        at += np.uint64(LANES)


@compiled
def _least_with(tables, entry, depth, rest):  # type: ignore[no-untyped-def]
    """The least over a block's rivals of the lanes of `rest` and the entry at `entry`."""
    margins = add(load(rest, np.uint64(0)), load(tables, entry))
    for q in range(1, depth):
        lanes = np.uint64(q * LANES)
        margins = least(margins, add(load(rest, lanes), load(tables, entry + lanes)))
    return margins


@compiled
def _changed(chosen, start, stop, member, changed):  # type: ignore[no-untyped-def]
    """Writes to `changed` the members chosen[start:stop], in order, with one added, or removed if it is among them.

    Returns their number.
    """
    number, done = 0, False
    for j in range(start, stop):
        if not done and chosen[j] >= member:
            done = True
            if chosen[j] == member:
                continue
            changed[number] = member
            number += 1
        changed[number] = chosen[j]
        number += 1
    if not done:
        changed[number] = member
        number += 1
    return number


@compiled
def count_changed(codes_SG, masks_SM, tables, blocks, start, stop, probs, place_I, below_R, first_I, correct_SM):  # type: ignore[no-untyped-def]
    """As `count_right`, for every subset with one member added or removed: `correct_SM`.

    `CHANGED` subsets are changed in one group of members after the other, while the group's part of a table is in the cache.
    """
    subsets, groups = codes_SG.shape
    members, size = masks_SM.shape[1], np.uint64(groups * CODES * LANES)
    deepest = 1
    for b in range(start, stop):
        deepest = max(deepest, blocks[b, 1])
    entries, used = np.zeros(groups + 1, dtype=np.uint32), np.zeros(CHANGED, dtype=np.int64)
    sums, rest = _scratch(CHANGED * deepest * LANES), _scratch(deepest * LANES)
    words, ones, changed = np.empty(WORDS, dtype=np.uint64), np.ones(members), np.empty(members, dtype=np.int64)
    chosen, ends = np.empty(subsets * members, dtype=np.int64), np.empty(subsets, dtype=np.int64)
    for s in range(subsets):
        ends[s] = _members(masks_SM, s, chosen, s * members)
    for b in range(start, stop):
        first, depth, table = blocks[b, 0], blocks[b, 1], np.uint64(blocks[b, 2]) * size
        step = np.uint64(depth * LANES)
        for from_s in range(0, subsets, CHANGED):
            to_s = min(subsets, from_s + CHANGED)
            for s in range(from_s, to_s):
                used[s - from_s] = _entries(codes_SG[s], entries)
                _sums(tables, table, depth, entries, used[s - from_s], sums, np.uint64(s - from_s) * step)
            for g in range(groups):
                for s in range(from_s, to_s):
                    code, mine = np.int64(codes_SG[s, g]), np.uint64(s - from_s) * step
                    now = table + np.uint64(g * CODES + code) * step
                    for q in range(depth):
                        lanes = np.uint64(q * LANES)
                        store(rest, lanes, subtract(load(sums, mine + lanes), load(tables, now + lanes)))
                    for m in range(g * BITS, min(members, (g + 1) * BITS)):
                        then = code ^ (1 << (m - g * BITS))
                        margins = _least_with(tables, table + np.uint64(g * CODES + then) * step, depth, rest)
                        limit = np.int16((used[s - from_s] - (code != 0) + (then != 0)) // 2)
                        right = above(margins, limit)
                        correct_SM[s, m] += right
                        if above(margins, np.int16(-limit - 1)) > right:
                            number = _changed(chosen, s * members, ends[s], m, changed)
                            correct_SM[s, m] += _decided(
                                margins, limit, first, changed, 0, number, ones, words, probs, place_I, below_R, first_I
                            )


@compiled
def _chosen(code, others, start, stop, chosen):  # type: ignore[no-untyped-def]
    """Writes to `chosen` the members of a choice of the first group, and after them others[start:stop].

    Returns their number.
    """
    number = 0
    for m in range(BITS):
        if (code >> m) & 1:
            chosen[number] = m
            number += 1
    for j in range(start, stop):
        chosen[number] = others[j]
        number += 1
    return number


@compiled
def count_choices(codes_SG, masks_SM, tables, blocks, start, stop, probs, place_I, below_R, first_I, correct_SC):  # type: ignore[no-untyped-def]
    """As `count_right`, for every subset with every choice of the members of the first group: `correct_SC`."""
    subsets, groups = codes_SG.shape
    members, size = masks_SM.shape[1], np.uint64(groups * CODES * LANES)
    deepest = 1
    for b in range(start, stop):
        deepest = max(deepest, blocks[b, 1])
    entries, words = np.zeros(groups + 1, dtype=np.uint32), np.empty(WORDS, dtype=np.uint64)
    rest, ones = _scratch(deepest * LANES), np.ones(BITS + members)
    others, ends = np.empty(subsets * members, dtype=np.int64), np.empty(subsets, dtype=np.int64)
    chosen = np.empty(BITS + members, dtype=np.int64)
    for s in range(subsets):
        ends[s] = _members(masks_SM, s, others, s * members)
    for b in range(start, stop):
        first, depth, table = blocks[b, 0], blocks[b, 1], np.uint64(blocks[b, 2]) * size
        for s in range(subsets):
            used = _entries(codes_SG[s], entries)
            _sums(tables, table, depth, entries, used, rest, np.uint64(0))
            for code in range(CODES):
                margins = _least_with(tables, table + np.uint64(code * depth * LANES), depth, rest)
                limit = np.int16((used + (code != 0)) // 2)
                right = above(margins, limit)
                correct_SC[s, code] += right
                if above(margins, np.int16(-limit - 1)) > right:
                    number = _chosen(code, others, s * members, ends[s], chosen)
                    correct_SC[s, code] += _decided(
                        margins, limit, first, chosen, 0, number, ones, words, probs, place_I, below_R, first_I
                    )
