"""What is asked of office documents: a JSON Schema for each kind, as a person in an office would write it."""

from __future__ import annotations

from typing import Any

_TEXT, _DAY, _MONEY = {"type": "string"}, {"type": "string", "format": "date"}, {"type": "number"}

_FIELDS: dict[str, dict[str, Any]] = {
    "invoice": {
        "vendor": _TEXT | {"description": "name of the company that sends the invoice"},
        "customer": _TEXT,
        "invoice_number": _TEXT,
        "invoice_date": _DAY,
        "due_date": _DAY,
        "purchase_order": _TEXT,
        "subtotal": _MONEY,
        "vat": _MONEY | {"title": "VAT"},
        "total": _MONEY,
        "iban": _TEXT | {"title": "IBAN"},
        "payment_terms": _TEXT,
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"description": _TEXT, "quantity": {"type": "integer"}, "amount": _MONEY},
            },
        },
    },
    "statement": {
        "bank": _TEXT,
        "account_holder": _TEXT,
        "iban": _TEXT | {"title": "IBAN"},
        "statement_number": _TEXT,
        "statement_date": _DAY,
        "customer_number": _TEXT,
        "opening_balance": _MONEY,
        "closing_balance": _MONEY,
        "total_paid_in": _MONEY,
        "overdraft_limit": _MONEY,
        "branch_phone": _TEXT,
        "transactions": {
            "type": "array",
            "items": {"type": "object", "properties": {"date": _TEXT, "text": _TEXT, "amount": _MONEY}},
        },
    },
    "claim": {
        "insurer": _TEXT,
        "policy_number": _TEXT,
        "last_name": _TEXT,
        "first_name": _TEXT,
        "date_of_birth": _DAY,
        "phone": _TEXT,
        "email": _TEXT,
        "town": _TEXT,
        "occupation": _TEXT,
        "date_of_loss": _DAY,
        "vehicle": _TEXT | {"description": "registration of the vehicle"},
        "amount_claimed": _MONEY,
        "signed_on": _DAY,
    },
}


def schema_of(kind: str) -> dict[str, Any]:
    """The schema of a kind of document."""
    return {"type": "object", "properties": _FIELDS[kind]}
