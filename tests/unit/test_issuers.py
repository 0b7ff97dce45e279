"""Issuers: discovered, their keys kept while they are down, rotated, and never asked more often than is bounded."""

from __future__ import annotations

import asyncio

import jwt
import pytest

from muster.access.bearer import BearerError, read
from muster.access.issuers import Issuer, Issuers, IssuerUrlError, Proof, check_url
from muster.core.access_limits import ISSUER_KEYS_FRESH, ISSUER_KEYS_KEPT
from muster.testing.clock import VirtualAmbient
from tests.issuer_parts import TestIssuer

FRESH, KEPT = ISSUER_KEYS_FRESH.open, ISSUER_KEYS_KEPT.open


class Scene:
    """One issuer, and the hub's view of it."""

    def __init__(self) -> None:
        self.ambient = VirtualAmbient()
        self.there = TestIssuer(self.ambient.now)
        self.issuer = Issuer(self.there.url, self.there.fetch, self.ambient)

    async def prove(self, token: str) -> Proof:
        return await self.issuer.prove(read(token))

    async def refused(self, token: str) -> tuple[str, str]:
        with pytest.raises(BearerError) as refusal:
            await self.prove(token)
        return refusal.value.step, refusal.value.cause


async def settled() -> None:
    """Let what runs in the background end; here nothing of it waits for anything."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_token_is_proven_and_the_keys_are_fetched_once() -> None:
    scene = Scene()
    proof = await scene.prove(scene.there.token(roles=["Reader"]))
    assert (proof.caller.issuer, proof.caller.name, proof.caller.roles) == (scene.there.url, "alice", {"Reader"})
    await asyncio.gather(*(scene.prove(scene.there.token()) for _ in range(20)))
    assert scene.there.rounds == 1


async def test_many_who_come_at_once_share_the_first_fetch() -> None:
    scene = Scene()
    await asyncio.gather(*(scene.prove(scene.there.token()) for _ in range(20)))
    assert scene.there.rounds == 1


async def test_a_new_key_counts_at_once() -> None:
    scene = Scene()
    await scene.prove(scene.there.token())
    scene.there.keys = ["k2", "k1"]
    await scene.prove(scene.there.token("k2"))
    assert scene.there.rounds == 2
    await scene.prove(scene.there.token("k1"))


async def test_a_flood_of_unknown_key_ids_costs_few_fetches() -> None:
    scene = Scene()
    await scene.prove(scene.there.token())
    flood = [scene.there.token(f"invented{at}", "k1") for at in range(200)]
    causes = await asyncio.gather(*map(scene.refused, flood))
    assert set(causes) == {("signature", "bearer-key-unknown")}
    for token in flood:
        await scene.refused(token)
    assert scene.there.rounds <= 1 + 5
    scene.ambient.advance(60)
    for token in flood:
        await scene.refused(token)
    assert scene.there.rounds <= 1 + 5 + 2
    await scene.prove(scene.there.token())


async def test_a_flood_delays_a_new_key_by_half_a_minute_at_most() -> None:
    scene = Scene()
    for at in range(20):
        await scene.refused(scene.there.token(f"invented{at}", "k1"))
    scene.there.keys = ["k2"]
    assert await scene.refused(scene.there.token("k2")) == ("signature", "bearer-key-unknown")
    scene.ambient.advance(30)
    await scene.prove(scene.there.token("k2"))


async def test_a_key_that_was_removed_counts_no_more_once_the_keys_were_asked_for_again() -> None:
    scene = Scene()
    scene.there.keys = ["k1", "k2"]
    old = scene.there.token("k1", exp=scene.ambient.now() + 9 * FRESH)
    proof = await scene.prove(old)
    scene.there.keys = ["k2"]
    scene.ambient.advance(FRESH - 1)
    assert proof.stands()
    scene.ambient.advance(1)
    assert proof.stands(), "who asks first is not kept waiting"
    await settled()
    assert not proof.stands()
    assert await scene.refused(old) == ("signature", "bearer-key-removed")
    scene.there.keys = ["k2", "k1"]
    await scene.prove(old)


async def test_who_comes_after_a_long_silence_waits_for_the_keys() -> None:
    scene = Scene()
    scene.there.keys = ["k1", "k2"]
    proof = await scene.prove(scene.there.token("k1"))
    scene.there.keys = ["k2"]
    scene.ambient.advance(2 * FRESH)
    assert not proof.stands()
    assert await scene.refused(scene.there.token("k1")) == ("signature", "bearer-key-removed")


async def test_another_key_under_the_same_id_is_another_key() -> None:
    scene = Scene()
    proof = await scene.prove(scene.there.token("k1"))
    scene.there.keys = []
    scene.there.more_keys = [{**scene.there.jwk("k2"), "kid": "k1"}]
    scene.ambient.advance(FRESH)
    proof.stands()
    await settled()
    assert not proof.stands()
    assert await scene.refused(scene.there.token("k1")) == ("signature", "bearer-signature")


async def test_an_issuer_that_is_down_is_judged_by_what_is_known() -> None:
    scene = Scene()
    proof = await scene.prove(scene.there.token())
    scene.there.down = True
    for _ in range(KEPT // 3600 - 1):
        scene.ambient.advance(3600)
        await scene.prove(scene.there.token())
    assert await scene.refused(scene.there.token("k2")) == ("signature", "issuer-unreachable")
    before = scene.there.rounds
    for _ in range(100):
        assert proof.stands()
        await scene.prove(scene.there.token())
    assert scene.there.rounds - before <= 1, "nobody waits for it again and again"
    scene.ambient.advance(7200)
    assert not proof.stands()
    assert await scene.refused(scene.there.token()) == ("signature", "issuer-keys-too-old")
    scene.there.down = False
    scene.ambient.advance(2 * FRESH)
    await scene.prove(scene.there.token())


async def test_an_issuer_that_never_answered() -> None:
    scene = Scene()
    scene.there.down = True
    tokens = [scene.there.token() for _ in range(50)]
    assert {await scene.refused(token) for token in tokens} == {("signature", "issuer-unreachable")}
    assert scene.there.rounds <= 1 + 5
    assert "nobody is there" in scene.issuer.trouble
    scene.there.down = False
    scene.ambient.advance(60)
    await scene.prove(tokens[0])
    assert not scene.issuer.trouble


@pytest.mark.parametrize(
    ("about", "trouble"),
    [
        ({"issuer": "https://evil.test"}, "another issuer's"),
        ({"issuer": None}, "another issuer's"),
        ({"jwks_uri": None}, "no jwks_uri"),
        ({"jwks_uri": "http://issuer.test/keys"}, "not HTTPS"),
        ({"jwks_uri": "file:///etc/passwd"}, "no https://"),
        ({"jwks_uri": "https://issuer.test/none"}, "404"),
    ],
)
async def test_a_configuration_that_does_not_count(about: dict[str, str], trouble: str) -> None:
    scene = Scene()
    scene.there.about |= about
    assert await scene.refused(scene.there.token()) == ("signature", "issuer-unreachable")
    assert trouble in scene.issuer.trouble


async def test_the_issuers_own_name_decides_about_the_slash_at_its_end() -> None:
    scene = Scene()
    scene.there.about["issuer"] = f"{scene.there.url}/"
    await scene.prove(scene.there.token(iss=f"{scene.there.url}/"))
    assert await scene.refused(scene.there.token()) == ("issuer", "bearer-issuer")


async def test_odd_keys_among_the_others_do_no_harm() -> None:
    scene = Scene()
    scene.there.more_keys = [
        7,
        "x",
        None,
        {"kid": 5, "kty": "RSA"},
        {"kty": "oct", "k": "AAAA"},
        {"kid": "bad", "kty": "RSA"},
    ]
    await scene.prove(scene.there.token())
    assert await scene.refused(scene.there.token("bad", "k1")) == ("signature", "bearer-signature")


async def test_without_a_key_id_the_only_key_of_the_kind_is_meant() -> None:
    scene = Scene()
    anonymous = scene.there.token(headers={"typ": "at+jwt"})
    await scene.prove(anonymous)
    scene.there.keys = ["k1", "k2"]
    scene.ambient.advance(2 * FRESH)
    assert await scene.refused(anonymous) == ("signature", "bearer-key-unknown")
    assert scene.there.rounds == 2, "nobody asks anew for a key without a name"


async def test_no_algorithm_and_the_public_key_as_a_secret_ask_nothing_of_the_issuer() -> None:
    scene = Scene()
    await scene.prove(scene.there.token())
    claims = {"iss": scene.there.url, "exp": scene.ambient.now() + 60}
    for algorithm, key in (("none", None), ("HS256", "x" * 64)):
        forged = jwt.encode(claims, key, algorithm, {"kid": "k9"})  # type: ignore[arg-type]
        assert await scene.refused(forged) == ("signature", "bearer-algorithm")
    assert scene.there.rounds == 1


async def test_several_issuers_each_with_keys_of_its_own() -> None:
    ambient = VirtualAmbient()
    there = [TestIssuer(ambient.now, f"https://issuer{at}.test") for at in range(2)]
    there[1].keys = ["k2"]
    issuers = Issuers([Issuer(one.url, one.fetch, ambient) for one in there])
    for one, kid in zip(there, ("k1", "k2"), strict=True):
        token = read(one.token(kid))
        assert (await issuers.find(token).prove(token)).caller.issuer == one.url
    stolen = read(there[0].token("k2"))
    with pytest.raises(BearerError) as refusal:
        await issuers.find(stolen).prove(stolen)
    assert refusal.value.cause == "bearer-key-unknown"
    with pytest.raises(BearerError) as refusal:
        issuers.find(read(there[0].token(iss="https://evil.test/")))
    assert (refusal.value.step, refusal.value.cause) == ("issuer", "bearer-issuer")


@pytest.mark.parametrize(
    "url", ["https://a.test", "https://a.test:8443/t/v2.0", "http://localhost:3000", "http://[::1]:1/x"]
)
def test_urls_where_an_issuer_may_be(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize(
    "url",
    ["", "a.test", "ftp://a.test", "http://a.test", "http://localhost.evil.test", "https://", "https://u@a.test",
     "https://a.test?x", "https://a.test#x", "https://a.test:99999", "http://10.0.0.1"],
)  # fmt: skip
def test_urls_where_none_may_be(url: str) -> None:
    with pytest.raises(IssuerUrlError):
        check_url(url)
