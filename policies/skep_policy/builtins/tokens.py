"""JSON web tokens: decoding, and verification with keys that the policy holds. Nothing is fetched, nothing is signed.

Keys are a PEM certificate or public key, or a JWK or a set of them. A key that says its algorithm is tried for tokens
of that algorithm alone; one whose id the token names is the only one tried.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from skep_policy.builtins.encoding import base64url_bytes, text_of
from skep_policy.builtins.values import (
    LimitError,
    UndefinedError,
    Value,
    a_number,
    a_string,
    an_object,
    equal,
    read_json,
)

ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "HS256", "HS384", "HS512", "EdDSA",
)  # fmt: skip
KEYS_MAX: Final = 64
NESTED_MAX: Final = 8
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512(),
}  # fmt: skip
_CURVES: Final[dict[str, Callable[[], ec.EllipticCurve]]] = {
    "P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1,
}  # fmt: skip
_UNVERIFIED: Final[tuple[Value, ...]] = (False, {}, {})


class Key(NamedTuple):
    """A key and what it says of itself."""

    key: Any
    algorithm: str = ""
    id: str = ""


class Token(NamedTuple):
    """The three parts as they came, and the header."""

    header: str
    payload: str
    signature: str
    said: dict[str, Value]

    @property
    def signed(self) -> bytes:
        return f"{self.header}.{self.payload}".encode()


def _token(text: Value) -> Token:
    parts = a_string(text).split(".")
    if len(parts) != 3:
        raise UndefinedError("a token has three parts")
    header = an_object(read_json(base64url_bytes(parts[0])))
    if "enc" in header:
        raise UndefinedError("encrypted tokens are not supported")
    return Token(parts[0], parts[1], parts[2], header)


def decode(text: Value) -> list[Value]:
    """[header, payload, signature as hex], without a look at the signature."""
    for _ in range(NESTED_MAX):
        token = _token(text)
        raw = base64url_bytes(token.payload)
        if token.said.get("cty") != "JWT":
            return [token.said, an_object(read_json(raw)), base64url_bytes(token.signature).hex()]
        text = text_of(raw).strip("\"'")
    raise LimitError("too many tokens inside one another")


@lru_cache(maxsize=64)
def _keys(text: str) -> tuple[Key, ...]:
    if text.lstrip().startswith("-----BEGIN"):
        return (Key(_pem(text)),)
    found = an_object(read_json(text.encode()))
    many = found.get("keys", [found])
    if len(many) > KEYS_MAX:
        raise LimitError(f"more than {KEYS_MAX} keys")
    keys = (Key(_jwk(jwk), jwk.get("alg", ""), jwk.get("kid", "")) for jwk in map(an_object, many))
    return tuple(key for key in keys if not key.algorithm or key.algorithm in ALGORITHMS)


def _pem(text: str) -> Any:
    if text.rstrip("\n").count("-----END ") != 1 or not text.rstrip("\r\n ").endswith("-----"):
        raise UndefinedError("more than one PEM block")
    try:
        if "-----BEGIN CERTIFICATE-----" in text:
            return x509.load_pem_x509_certificate(text.encode()).public_key()
        if "-----BEGIN PUBLIC KEY-----" in text:
            return serialization.load_pem_public_key(text.encode())
    except (ValueError, TypeError) as error:
        raise UndefinedError(str(error)) from None
    raise UndefinedError("neither a certificate nor a public key")


def _jwk(jwk: dict[str, Value]) -> Any:
    """The key of one JWK; of a private one its public half is not asked for."""
    kind = jwk.get("kty")

    def number(name: str) -> int:
        return int.from_bytes(base64url_bytes(a_string(jwk[name])))

    try:
        if kind == "RSA":
            return rsa.RSAPublicNumbers(number("e"), number("n")).public_key()
        if kind == "EC":
            return ec.EllipticCurvePublicNumbers(number("x"), number("y"), _CURVES[jwk["crv"]]()).public_key()
        if kind == "OKP" and jwk.get("crv") == "Ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(base64url_bytes(a_string(jwk["x"])))
        if kind == "oct":
            return base64url_bytes(a_string(jwk["k"]))
    except (KeyError, ValueError) as error:
        raise UndefinedError(f"no key: {error}") from None
    raise UndefinedError("an unknown kind of key")


def _verified(algorithm: str, key: Any, signed: bytes, signature: bytes) -> bool:
    """Is it a signature by this key under this algorithm?"""
    if algorithm not in ALGORITHMS:
        return False
    kind, hash = algorithm[:2], _HASHES.get(algorithm[2:])
    if kind == "HS":
        made = hmac.new(key, signed, f"sha{algorithm[2:]}").digest() if isinstance(key, bytes) else b""
        return bool(made) and hmac.compare_digest(made, signature)
    try:
        if kind == "Ed" and isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, signed)
        elif kind == "ES" and isinstance(key, ec.EllipticCurvePublicKey) and hash:
            half = len(signature) // 2
            halves = (int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))
            key.verify(encode_dss_signature(*halves), signed, ec.ECDSA(hash))
        elif kind == "RS" and isinstance(key, rsa.RSAPublicKey) and hash:
            key.verify(signature, signed, padding.PKCS1v15(), hash)
        elif kind == "PS" and isinstance(key, rsa.RSAPublicKey) and hash:
            key.verify(signature, signed, padding.PSS(padding.MGF1(hash), padding.PSS.AUTO), hash)
        else:
            return False
    except (InvalidSignature, ValueError):
        return False
    return True


def _any_key(keys: tuple[Key, ...], token: Token, algorithm: str, signature: bytes) -> bool:
    named = token.said.get("kid")
    if named:
        for key in keys:
            if key.id == named:
                return _verified(algorithm, key.key, token.signed, signature)
    said = token.said.get("alg")
    return any(
        _verified(algorithm, key.key, token.signed, signature)
        for key in keys
        if not key.algorithm or key.algorithm == said
    )


def verify(algorithm: str, text: Value, certificate: Value) -> bool:
    token = _token(text)
    signature = base64url_bytes(token.signature)
    if algorithm.startswith("HS"):
        return _verified(algorithm, a_string(certificate).encode(), token.signed, signature)
    _check_header(token.said)
    return _any_key(_keys(a_string(certificate)), token, algorithm, signature)


def _check_header(header: dict[str, Value]) -> None:
    for name in ("alg", "kid", "typ", "cty"):
        a_string(header.get(name, ""))
    if "crit" in header and not (isinstance(header["crit"], list) and any(map(_is_text, header["crit"]))):
        raise UndefinedError("crit is a list of names")


def _is_text(value: Value) -> bool:
    return isinstance(value, str)


def decode_verify(instance: Any, text: Value, constraints: Value) -> list[Value]:
    """[valid, header, payload]."""
    wanted = an_object(constraints)
    if set(wanted) - {"cert", "secret", "alg", "iss", "aud", "time"}:
        raise UndefinedError("unknown constraint")
    texts = {
        name: a_string(wanted[name]) for name in ("cert", "secret", "alg", "iss", "aud") if name in wanted
    }
    keys = _keys(texts["cert"]) if "cert" in texts else None
    if (keys is None) == (not texts.get("secret")):
        raise UndefinedError("exactly one of cert and secret")
    time = a_number(wanted["time"]) if "time" in wanted else instance.now_ns()
    if time < 0:
        raise UndefinedError("a time before 1970")
    found = _unwrapped(text, keys or (Key(texts["secret"].encode()),), texts.get("alg", ""))
    if found is None:
        return list(_UNVERIFIED)
    header, payload = found
    good = _claims_hold(payload, texts.get("iss", ""), texts.get("aud", ""), Decimal(repr(float(time) / 1e9)))
    return [True, header, payload] if good else list(_UNVERIFIED)


decode_verify.asks_instance = True  # type: ignore[attr-defined]


def _unwrapped(text: Value, keys: tuple[Key, ...], algorithm: str) -> tuple[Value, dict[str, Value]] | None:
    """(header, payload) of the innermost token, every one verified; None when one is not."""
    for _ in range(NESTED_MAX):
        token = _token(text)
        _check_header(token.said)
        said = token.said.get("alg", "")
        known = {"alg", "kid", "typ", "cty", "crit"}
        critical = [name for name in token.said.get("crit", ()) if _is_text(name)]
        if not said or any(name in token.said and name not in known for name in critical):
            return None
        if algorithm and said != algorithm:
            return None
        if not _any_key(keys, token, said, base64url_bytes(token.signature)):
            return None
        raw = base64url_bytes(token.payload)
        if a_string(token.said.get("cty", "")).upper() != "JWT":
            return token.said, an_object(read_json(raw))
        text = text_of(raw)
    raise LimitError("too many tokens inside one another")


def _claims_hold(payload: dict[str, Value], issuer: str, audience: str, now: Decimal) -> bool:
    if issuer and not ("iss" in payload and a_string(payload["iss"]) == issuer):
        return False
    if "aud" in payload:
        said = payload["aud"] if isinstance(payload["aud"], list) else [payload["aud"]]
        if not any(equal(one, audience) for one in said if _is_text(one)):
            return False
    elif audience:
        return False
    if "exp" in payload and not now < a_number(payload["exp"]):
        return False
    return not ("nbf" in payload and now < a_number(payload["nbf"]))


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "io.jwt.decode": decode,
    "io.jwt.decode_verify": decode_verify,
    **{f"io.jwt.verify_{name.lower()}": partial(verify, name) for name in ALGORITHMS},
}
