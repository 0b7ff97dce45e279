"""What queries need: indexes on identities, and functions that PostgreSQL has not, or has otherwise.

Numbers are as in IEEE 754 and the language: what is too large is infinite, what is too small is zero, and what is no
number at all is undefined, where PostgreSQL raises. Texts are kept as ``stores.postgres.texts`` says; functions that
count or look into them count U+0001 and what follows it as one.
"""

from __future__ import annotations

from alembic import op

revision, down_revision = "0006", "0005"

_INDEXES = (
    "CREATE INDEX identities_disabled ON identities (hub, device_id, module_id) WHERE status = 'disabled'",
    "CREATE INDEX identities_edge ON identities (hub, device_id, module_id) WHERE iot_edge",
    "CREATE INDEX identities_by_scope ON identities (hub, device_scope, device_id, module_id) "
    "WHERE device_scope IS NOT NULL",
    "CREATE INDEX identities_by_module ON identities (hub, module_id, device_id) WHERE module_id > ''",
)

_USUAL = "abs({0}) < 1e150 AND (abs({0}) > 1e-150 OR {0} = 0)"
"""Two such numbers can be multiplied and divided without a second look."""


def _function(signature: str, result: str, body: str) -> str:
    """An immutable function that is undefined where an argument is. Those that catch errors may not run in parallel."""
    return f"CREATE FUNCTION {signature} RETURNS {result} LANGUAGE plpgsql IMMUTABLE STRICT AS $${body}$$"


def _sum(name: str, operator: str) -> str:
    return _function(
        f"query_{name}(a float8, b float8)",
        "float8",
        f"""
        BEGIN
            IF abs(a) < 1e300 AND abs(b) < 1e300 THEN RETURN a {operator} b; END IF;
            BEGIN
                RETURN nullif(a {operator} b, 'NaN');
            EXCEPTION WHEN numeric_value_out_of_range THEN RETURN sign(a) * 'Infinity'::float8;
            END;
        END
        """,
    )


def _product(name: str, operator: str, power: str) -> str:
    """``power``: how the result's logarithm is made of those of the arguments."""
    return _function(
        f"query_{name}(a float8, b float8)",
        "float8",
        f"""
        BEGIN
            IF {_USUAL.format("a")} AND {_USUAL.format("b")} AND b <> 0 THEN RETURN a {operator} b; END IF;
            BEGIN
                RETURN nullif(a {operator} b, 'NaN');
            EXCEPTION
                WHEN division_by_zero THEN RETURN NULL;
                WHEN numeric_value_out_of_range THEN
                    IF ln(abs(a)) {power} ln(abs(b)) < 0 THEN RETURN 0; END IF;
                    RETURN sign(a) * sign(b) * 'Infinity'::float8;
            END;
        END
        """,
    )


_ARITHMETIC = (
    _sum("add", "+"),
    _sum("subtract", "-"),
    _product("multiply", "*", "+"),
    _product("divide", "/", "-"),
    # the remainder is exact: the divisor is doubled up to the dividend, and subtracted on the way back
    _function(
        "query_modulo(a float8, b float8)",
        "float8",
        """
        DECLARE rest float8 := abs(a); low float8 := abs(b); scale float8 := 1; part float8;
        BEGIN
            IF b = 0 OR rest = 'Infinity' THEN RETURN NULL; END IF;
            IF rest < low THEN RETURN a; END IF;
            IF low < 1e-150 THEN
                IF rest > 1e100 THEN
                    part := low;
                    WHILE part <= rest / 2 LOOP part := part * 2; END LOOP;
                    WHILE part > 1 LOOP
                        IF rest >= part THEN rest := rest - part; END IF;
                        part := part / 2;
                    END LOOP;
                    IF rest < low THEN RETURN sign(a) * rest; END IF;
                END IF;
                scale := 2::float8 ^ 200;
                rest := rest * scale;
                low := low * scale;
            END IF;
            part := low;
            WHILE part <= rest / 2 LOOP part := part * 2; END LOOP;
            WHILE part >= low LOOP
                IF rest >= part THEN rest := rest - part; END IF;
                part := part / 2;
            END LOOP;
            RETURN sign(a) * rest / scale;
        END
        """,
    ),
    _function(
        "query_exp(a float8)",
        "float8",
        """
        BEGIN
            IF abs(a) < 700 THEN RETURN exp(a); END IF;
            BEGIN
                RETURN exp(a);
            EXCEPTION WHEN numeric_value_out_of_range THEN
                RETURN CASE WHEN a > 0 THEN 'Infinity'::float8 ELSE 0 END;
            END;
        END
        """,
    ),
    _function("query_sqrt(a float8)", "float8", "BEGIN RETURN CASE WHEN a >= 0 THEN sqrt(a) END; END"),
    _function(
        "query_power(a float8, b float8)",
        "float8",
        """
        DECLARE
            odd boolean := abs(b) < 2::float8 ^ 53 AND floor(b) = b AND floor(b / 2) <> b / 2;
            minus float8 := CASE WHEN odd AND (a < 0 OR a::text = '-0') THEN -1 ELSE 1 END;
        BEGIN
            IF a = 0 AND b < 0 THEN RETURN minus * 'Infinity'::float8; END IF;
            IF a = '-Infinity' AND NOT odd THEN a := 'Infinity'; END IF;
            RETURN nullif(power(a, b), 'NaN');
        EXCEPTION
            WHEN invalid_argument_for_power_function THEN RETURN NULL;
            WHEN numeric_value_out_of_range THEN
                RETURN CASE WHEN (abs(a) > 1) = (b > 0) THEN minus * 'Infinity'::float8 ELSE 0 END;
        END
        """,
    ),
    "CREATE AGGREGATE query_sum(float8) (SFUNC = query_add, STYPE = float8)",
)

_ODD = r"E'\x01'"
_ODD_CHARACTER = r"E'\x01[\x01\x02]'"
_WHOLE = r"E'^([^\x01]|\x01[\x01\x02])*$'"
"""What does not end in the midst of a character."""

_TEXTS = (
    # what is beyond the range of floating point is infinite or zero by the power of ten of its first digit
    _function(
        "query_number(a text)",
        "float8",
        r"""
        DECLARE
            whole text := btrim(a, E' \t\r\n');
            digits text; before text; behind text; power numeric;
        BEGIN
            IF whole !~ '^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$' THEN RETURN NULL; END IF;
            BEGIN
                RETURN whole::float8;
            EXCEPTION WHEN numeric_value_out_of_range THEN
                digits := ltrim(split_part(lower(whole), 'e', 1), '+-');
                before := ltrim(split_part(digits, '.', 1), '0');
                behind := split_part(digits, '.', 2);
                power := coalesce(nullif(split_part(lower(whole), 'e', 2), ''), '0')::numeric;
                IF before <> '' THEN power := power + length(before);
                ELSE power := power - (length(behind) - length(ltrim(behind, '0')));
                END IF;
                IF power < 0 THEN RETURN 0; END IF;
                RETURN CASE left(whole, 1) WHEN '-' THEN '-Infinity' ELSE 'Infinity' END;
            END;
        END
        """,
    ),
    _function(
        "query_length(a text)",
        "float8",
        f"""
        BEGIN
            IF strpos(a, {_ODD}) = 0 THEN RETURN char_length(a); END IF;
            RETURN char_length(regexp_replace(a, {_ODD_CHARACTER}, '.', 'g'));
        END
        """,
    ),
    _function(
        "query_ends_with(a text, b text)",
        "boolean",
        f"""
        BEGIN
            IF right(a, char_length(b)) <> b COLLATE "C" THEN RETURN false; END IF;
            RETURN strpos(a, {_ODD}) = 0 OR left(a, char_length(a) - char_length(b)) ~ {_WHOLE};
        END
        """,
    ),
    _function(
        "query_index_of(a text, b text)",
        "float8",
        rf"""
        DECLARE
            place integer := strpos(a, b);
            before text; further integer;
        BEGIN
            IF place = 0 OR strpos(a, {_ODD}) = 0 THEN RETURN place - 1; END IF;
            LOOP
                before := left(a, place - 1);
                IF before ~ {_WHOLE} THEN RETURN query_length(before); END IF;
                further := strpos(substr(a, place + 1), b);
                IF further = 0 THEN RETURN -1; END IF;
                place := place + further;
            END LOOP;
        END
        """,
    ),
    _function(
        "query_substring(a text, start float8, count float8 DEFAULT 1e9)",
        "text",
        rf"""
        DECLARE first integer; most integer;
        BEGIN
            IF start < 0 OR count < 0 OR 'Infinity' IN (start, count) OR floor(start) <> start OR floor(count) <> count
            THEN RETURN NULL; END IF;
            first := least(start, 1e9);
            most := least(count, 1e9);
            IF strpos(a, {_ODD}) = 0 THEN RETURN substr(a, first + 1, most); END IF;
            RETURN (
                SELECT coalesce(string_agg(piece[1], '' ORDER BY number), '')
                FROM regexp_matches(a, E'(\x01[\x01\x02]|.)', 'g') WITH ORDINALITY AS pieces (piece, number)
                WHERE number > first AND number - first <= most
            );
        END
        """,  # noqa: S608  constants
    ),
    _function(
        "query_array_has(a jsonb, b float8)", "boolean", "BEGIN RETURN abs(b) < 'Infinity' AND a @> to_jsonb(b); END"
    ),
    _function(
        "query_time(a float8)",
        "text",
        """
        DECLARE microseconds bigint := round(a * 1000000);
        BEGIN
            IF a = 0 THEN RETURN '0001-01-01T00:00:00Z'; END IF;
            RETURN to_char(to_timestamp(microseconds / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.')
                || lpad((microseconds % 1000000)::text, 6, '0') || '0Z';
        END
        """,
    ),
    _function(
        "query_group_key(a text)",
        "text",
        """
        BEGIN
            IF char_length(a) <= 200 THEN RETURN a; END IF;
            RETURN encode(sha256(convert_to(a, 'UTF8')), 'hex');
        END
        """,
    ),
)


def upgrade() -> None:
    """Make the indexes and functions."""
    for step in (*_INDEXES, *_ARITHMETIC, *_TEXTS):
        op.execute(step)
