"""Properties of the Merkle tree, held against an independent implementation and against the definition."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from gateway.audit import tree


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return tree.node_hash(mth(leaves[:k]), mth(leaves[k:]))


def nodes(leaves: list[bytes]) -> tree.Node:
    return lambda height, index: tree.perfect_root(leaves[index << height : (index + 1) << height])


def grown(count: int) -> tuple[list[bytes], tree.Edge]:
    leaves = [tree.leaf_hash(b"r%d" % i) for i in range(count)]
    edge = tree.Edge()
    for leaf in leaves:
        edge.append(leaf)
    return leaves, edge


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=130))
def test_roots_and_proofs_agree_with_pymerkle(records: list[bytes]) -> None:
    peer = InmemoryTree(algorithm="sha256")
    edge = tree.Edge()
    leaves = []
    for record in records:
        peer.append_entry(record)
        leaves.append(tree.leaf_hash(record))
        edge.append(leaves[-1])
    assert edge.root() == peer.get_root() == mth(leaves)
    size = len(records)
    for index in {0, size // 2, size - 1}:
        ours = tree.inclusion_proof(nodes(leaves), index, size)
        theirs = [bytes.fromhex(step) for step in peer.prove_inclusion(index + 1, size).serialize()["path"]]
        assert ours == theirs[1:]  # its path begins with the leaf itself
        assert tree.root_from_inclusion(leaves[index], index, size, ours) == edge.root()


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 300), st.data())
def test_consistency_proofs_lead_to_both_roots(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    leaves, edge = grown(new)
    path = tree.consistency_proof(nodes(leaves), old, new)
    old_root = mth(leaves[:old])
    assert tree.roots_from_consistency(old, new, old_root, path) == (old_root, edge.root())
    forged = mth([*leaves[: old - 1], tree.leaf_hash(b"forged")])
    if old != new:
        assert tree.roots_from_consistency(old, new, forged, path) != (forged, edge.root())


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 300), st.data())
def test_an_inclusion_proof_proves_one_leaf_in_one_place(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    leaves, edge = grown(size)
    path = tree.inclusion_proof(nodes(leaves), index, size)
    assert tree.root_from_inclusion(leaves[index], index, size, path) == edge.root()
    assert tree.root_from_inclusion(tree.leaf_hash(b"another"), index, size, path) != edge.root()
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        bent = [*path[:at], bytes(32), *path[at + 1 :]]
        assert tree.root_from_inclusion(leaves[index], index, size, bent) != edge.root()
        with pytest.raises(tree.TreeError, match="too short"):
            tree.root_from_inclusion(leaves[index], index, size, path[:-1])
    with pytest.raises(tree.TreeError, match="too long"):
        tree.root_from_inclusion(leaves[index], index, size, [*path, bytes(32)])


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([0, 1, 2, 255, 256, 257, 511, 512, 1000, 65_535, 65_536, 65_537, 66_000]), st.integers(0, 300))
def test_a_tree_restored_from_its_tiles_grows_as_the_original(size: int, more: int) -> None:
    leaf = tree.leaf_hash(b"same")
    first = tree.Edge()
    for _ in range(size):
        first.append(leaf)
    tiles = {(tile.level, tile.number, tile.width): tile.hashes for tile in first.partial()}
    second = tree.Edge.load(size, lambda level, number, width: tiles[level, number, width])
    assert second.root() == first.root()
    first.full.clear()
    for edge in (first, second):
        for i in range(more):
            edge.append(tree.leaf_hash(b"%d" % i))
    assert second.root() == first.root()
    assert second.full == first.full
    assert second.partial() == first.partial()


def test_the_tiles_of_70000_leaves_are_those_of_the_specification() -> None:
    edge = tree.Edge()
    for _ in range(70_000):
        edge.append(bytes(32))
    assert sum(tile.level == 0 for tile in edge.full) == 273
    assert [(tile.level, tile.number, tile.width) for tile in edge.full if tile.level] == [(1, 0, 256)]
    assert [(tile.level, tile.number, tile.width) for tile in edge.partial()] == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]


@given(st.one_of(st.none(), st.integers(0, 63)), st.integers(0, 10**12), st.integers(1, 256))
def test_tile_paths_have_one_spelling(level: int | None, number: int, width: int) -> None:
    path = tree.tile_path(level, number, width)
    assert tree.parse_tile_path(path) == (level, number, width)


def test_tile_paths_are_those_of_the_specification() -> None:
    assert tree.tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tree.tile_path(None, 5, 7) == "tile/entries/005.p/7"
    for wrong in ("tile/0/1234067", "tile/00/000", "tile/0/x000/001", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/07", "x"):
        assert tree.parse_tile_path(wrong) is None


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_bundles_round_trip(records: list[bytes]) -> None:
    data = b"".join(map(tree.pack_entry, records))
    assert tree.unpack_entries(data) == records
    if data:
        with pytest.raises(tree.TreeError):
            tree.unpack_entries(data[:-1] + b"\xff\xff")
