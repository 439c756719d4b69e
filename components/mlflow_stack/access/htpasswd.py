"""Lines of nginx's password file."""

# passlib makes its hash classes at import and has no type information.
from passlib.hash import ldap_salted_sha1  # pyright: ignore

SALT_LENGTH = 16
"""Bytes of salt a line; passlib takes 4 to 16."""


def line(user: str, password: str, salt: str) -> str:
    """``user:{SSHA}…``, the same for the same input, so that a second ``up`` has no diff.

    nginx hashes anew at every request: {SSHA} costs it 2 µs, bcrypt at cost 10 49 ms. A fast hash is enough for
    generated passwords of 32 characters; nginx implements this one itself, on every libc.
    """
    digest: str = ldap_salted_sha1.using(salt=salt.encode("ascii")).hash(password)  # pyright: ignore
    return f"{user}:{digest}"
