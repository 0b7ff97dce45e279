"""An index of blobs that several nodes share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import pytest
from hub_database import one_of_several

from muster.messages.blob_contract import Blob, BlobIndex, Block, Content, Standing

NAMES = [f"d{at}/f" for at in range(40)]


@pytest.fixture
async def nodes(common: str) -> AsyncIterator[list[BlobIndex]]:
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(one_of_several(common)) for _ in range(3)]
        yield [one.of("hub", None).blobs for one in made]


async def test_a_block_is_committed_or_forgotten_and_never_both(nodes: list[BlobIndex]) -> None:
    for name in NAMES:
        await nodes[0].stage(name, Block("b", f"file of {name}", 1), 10.0, 9)

    def commit(name: str, standing: Standing) -> Content:
        blocks = list(standing.staged.values())
        blob = Blob(name=name, etag="", size=len(blocks), created=0, modified=0, headers={}, metadata={})
        return Content(blob, blocks)

    committing = asyncio.gather(*(nodes[at % 2].change(name, partial(commit, name)) for at, name in enumerate(NAMES)))
    expiring = [await nodes[2].expire(10.0) for _ in range(5)]
    committed = [block.file for content, _ in await committing if content is not None for block in content.blocks]
    forgotten = [file for freed in expiring for file in freed]
    assert sorted(committed + forgotten) == sorted(f"file of {name}" for name in NAMES)
    assert set(await nodes[0].files()) == set(committed)


async def test_blocks_of_one_blob_from_several_nodes_are_counted_together(nodes: list[BlobIndex]) -> None:
    staging = (nodes[at % 3].stage("d/f", Block(f"b{at}", f"file{at}", 1), 10.0, 4) for at in range(9))
    outcomes = await asyncio.gather(*staging, return_exceptions=True)
    assert sum(isinstance(one, Exception) for one in outcomes) == 5
    assert len(await nodes[0].files()) == 4
