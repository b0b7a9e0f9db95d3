#!/usr/bin/env python3
"""The test vectors of pairing, computed from its description with nothing but the standard library.

Shares no code with the program and none with the libraries that it uses: the group, SPAKE2, HKDF and
the check symbol are written here a second time, plainly and slowly, and must give the same bytes.

    python3 pairing.py > pairing.txt
    python3 pairing.py --check pairing.txt      fails when the file is not what is printed
"""

import hashlib
import hmac
import sys

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

CODES = ["0000000", "0000001", "0000010", "ZZZZZZZ", "1234567", "ABCDEFG", "K7MQ2XV", "7ZJ4HQM"]
CODE = "K7MQ2XV"
TICKET_SECRET = b"\x07" * 16
SEED_O, SEED_J = b"\x4f" * 32, b"\x4a" * 32
RANDOM_O, RANDOM_J = b"\xbb" * 64, b"\xaa" * 64
CHANNEL_BINDING = bytes(range(32))
I_J = b'{"name":"laptop","port":7433,"addresses":["192.0.2.1"],"version":"0.1.0"}'
I_O = b'{"name":"desktop","port":7433,"addresses":["192.0.2.2"],"version":"0.1.0"}'


# The code's check symbol: Luhn's sum modulo 32.


def check_symbol(symbols):
    total = 0
    for place, symbol in enumerate(reversed(symbols)):
        product = ALPHABET.index(symbol) * (2 if place % 2 == 0 else 1)
        total += product // 32 + product % 32
    return ALPHABET[(32 - total % 32) % 32]


def shown(symbols):
    whole = symbols + check_symbol(symbols)
    return whole[:4] + "-" + whole[4:]


# The group of Ed25519 (RFC 8032, 5.1): -x^2 + y^2 = 1 + d x^2 y^2 over the integers modulo P.

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
ZERO = (0, 1)


def add(left, right):
    (x1, y1), (x2, y2) = left, right
    product = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P)
    return x % P, y % P


def times(factor, point):
    result = ZERO
    while factor:
        if factor & 1:
            result = add(result, point)
        point = add(point, point)
        factor >>= 1
    return result


def with_y(y, odd):
    """The point with this y whose x is odd or even; None when the curve has none."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if (x * x - square) % P:
        return None
    return (x if x % 2 == odd else -x % P), y % P


def encode(point):
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decode(text):
    number = int.from_bytes(bytes.fromhex(text), "little")
    return with_y(number % 2**255, number >> 255)


BASE = with_y(4 * pow(5, -1, P) % P, 0)


def ed25519_public_key(seed):
    scalar = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little")
    scalar &= 2**254 - 8
    return encode(times(scalar | 2**254, BASE))


def spki(public_key):
    """SubjectPublicKeyInfo in DER (RFC 8410)."""
    return bytes.fromhex("302a300506032b6570032100") + public_key


# HMAC and HKDF (RFC 5869) with SHA-256.


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def expand(prk, info, length):
    out, block, number = b"", b"", 1
    while len(out) < length:
        block = mac(prk, block, info, bytes([number]))
        out, number = out + block, number + 1
    return out[:length]


# SPAKE2 as the crate spake2 0.4 and python-spake2 do it, which is not RFC 9382.


def arbitrary_point(seed):
    """A point whose logarithm nobody knows."""
    wide = expand(mac(b"", seed), b"SPAKE2 arbitrary element", 48)
    y = int.from_bytes(wide, "big") % P
    while True:
        point = with_y(y, 0)
        if point and times(8, point) != ZERO:
            return times(8, point)
        y = (y + 1) % P


M = decode("15cfd18e385952982b6a8f8c7854963b58e34388c8e6dae891db756481a02312")
N = decode("f04f2e7eb734b2a8f8b472eaf9c3c632576ac64aea650b496a8a20ff00e583c3")


def password_scalar(password):
    return int.from_bytes(expand(mac(b"", password), b"SPAKE2 pw", 48), "big") % L


def spake2(password, id_a, id_b, random_a, random_b):
    """Both messages, and the key that both sides come to."""
    w = password_scalar(password)
    a, b = (int.from_bytes(random, "little") % L for random in (random_a, random_b))
    x = add(times(a, BASE), times(w, M))
    y = add(times(b, BASE), times(w, N))
    seen_by_a = times(a, add(y, times(L - w, N)))
    seen_by_b = times(b, add(x, times(L - w, M)))
    assert seen_by_a == seen_by_b == times(a * b % L, BASE)
    key = sha256(sha256(password), sha256(id_a), sha256(id_b), encode(x), encode(y), encode(seen_by_a))
    return b"A" + encode(x), b"B" + encode(y), key


# The exchange.


def lp(part):
    return len(part).to_bytes(4, "big") + part


def confirmation(label, tt, key):
    prk = mac(tt, key)
    kc_j = expand(prk, label + b" confirm J", 32)
    kc_o = expand(prk, label + b" confirm O", 32)
    mac3 = mac(kc_j, tt, lp(I_J))
    mac4 = mac(kc_o, tt, lp(mac3), lp(I_O))
    return [("TT", tt), ("PRK", prk), ("kcJ", kc_j), ("kcO", kc_o), ("mac3", mac3), ("mac4", mac4)]


def by_code(spki_o, spki_j):
    label = b"pi-remote pair v1"
    id_a = sha256(label, b" J", lp(spki_j))
    id_b = sha256(label, b" O", lp(spki_o))
    p_a, p_b, key = spake2(CODE.encode(), id_a, id_b, RANDOM_J, RANDOM_O)
    tt = sha256(label, lp(CHANNEL_BINDING), lp(spki_o), lp(spki_j), lp(p_a), lp(p_b))
    elements = [("idA", id_a), ("idB", id_b), ("pA", p_a), ("pB", p_b), ("K", key)]
    return elements + confirmation(label, tt, key)


def by_ticket(spki_o, spki_j):
    label = b"pi-remote ticket v1"
    tt = sha256(label, lp(CHANNEL_BINDING), lp(spki_o), lp(spki_j))
    return [("ticket_" + name, value) for name, value in confirmation(label, tt, TICKET_SECRET)]


# Points that no honest side sends.


def small_order():
    """The eight points whose order divides eight."""
    y = 2
    while True:
        point = with_y(y, 0)
        generator = point and times(L, point)
        if generator and times(4, generator) != ZERO:
            return [times(factor, generator) for factor in range(8)]
        y += 1


def second_spellings():
    """Encodings that stand for a point whose own encoding is another: y not reduced, or x = -0."""
    spelled = []
    for y in range(19):
        for odd in (0, 1):
            point = with_y(y, odd)
            if point:
                spelled.append((y + P | odd << 255, point))
    for y in (1, P - 1):
        spelled.append((y | 1 << 255, (0, y)))
    return [(number.to_bytes(32, "little"), point) for number, point in spelled]


def bad_elements():
    small = small_order()
    assert len(set(small)) == 8 and small[0] == ZERO
    honest = times(5, BASE)
    lines = [("small_order", encode(point)) for point in small]
    lines += [("mixed_order", encode(add(honest, point))) for point in small[1:]]
    for text, point in second_spellings():
        assert encode(point) != text
        lines.append(("non_canonical", text))
    y = 2
    while with_y(y, 0):
        y += 1
    return lines + [("off_the_curve", y.to_bytes(32, "little"))]


def lines():
    spki_o, spki_j = spki(ed25519_public_key(SEED_O)), spki(ed25519_public_key(SEED_J))
    yield "# Pairing: check symbols, a whole exchange by code, one by ticket, and points to be refused."
    yield "# Printed by pairing.py; hex unless said."
    for code in CODES:
        yield f"code_right {shown(code)}"
    yield f"code {CODE}"
    yield f"random_O {RANDOM_O.hex()}"
    yield f"random_J {RANDOM_J.hex()}"
    yield f"cb {CHANNEL_BINDING.hex()}"
    yield f"SPKI_O {spki_o.hex()}"
    yield f"SPKI_J {spki_j.hex()}"
    yield f"I_J {I_J.decode()}"
    yield f"I_O {I_O.decode()}"
    for name, value in by_code(spki_o, spki_j):
        yield f"{name} {value.hex()}"
    yield f"ticket_secret {TICKET_SECRET.hex()}"
    for name, value in by_ticket(spki_o, spki_j):
        yield f"{name} {value.hex()}"
    for name, value in bad_elements():
        yield f"{name} {value.hex()}"


def checks():
    """What must hold before any value is believed."""
    assert times(L, BASE) == ZERO and encode(BASE).hex() == "58" + "66" * 31
    # RFC 8032, 7.1, test 1.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert ed25519_public_key(seed).hex() == public
    # RFC 5869, A.1.
    prk = mac(bytes(range(13)), b"\x0b" * 22)
    assert expand(prk, bytes(range(0xF0, 0xFA)), 42).hex().startswith("3cb25f25faacd57a90434f64d0362f2a")
    assert (arbitrary_point(b"M"), arbitrary_point(b"N")) == (M, N)


def main():
    checks()
    text = "".join(line + "\n" for line in lines())
    match sys.argv[1:]:
        case []:
            sys.stdout.write(text)
        case ["--check", path]:
            with open(path, encoding="utf-8") as file:
                if file.read() != text:
                    sys.exit(f"{path} is not what this script prints")
        case _:
            sys.exit("usage: pairing.py [--check FILE]")


if __name__ == "__main__":
    main()
