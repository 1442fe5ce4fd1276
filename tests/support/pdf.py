"""PDF files of a few lines, also wrong ones, written by hand."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from io import BytesIO


def pdf_of(*pages: bytes, to_unicode: bytes = b"", filters: Sequence[bytes] = ()) -> bytes:
    """Return a file with a page for each content stream; `filters` name the encodings that these already have."""
    font = (
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica" + (b" /ToUnicode 4 0 R" if to_unicode else b"") + b" >>"
    )
    kids = b" ".join(b"%d 0 R" % (5 + 2 * number) for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        font,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(to_unicode), to_unicode),
    ]
    names = b" /Filter [%s]" % b" ".join(b"/" + name for name in filters) if filters else b""
    for number, content in enumerate(pages):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % (6 + 2 * number)
        )
        objects.append(b"<< /Length %d%s >>\nstream\n%s\nendstream" % (len(content), names, content))
    out = BytesIO()
    out.write(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start))
    return out.getvalue()


def shown(*lines: str, mode: int = 0, white: bool = False) -> bytes:
    """Return a content stream that shows lines; mode 3 shows nothing of them to a person, nor does white."""
    colour = b"1 1 1 rg " if white else b""
    drawn = b" ".join(b"(%s) Tj 0 -14 Td" % _escaped(line) for line in lines)
    return b"BT /F1 12 Tf %s%d Tr 72 700 Td %s ET" % (colour, mode, drawn)


def _escaped(line: str) -> bytes:
    return line.encode("latin-1").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


def mapped_to(code_unit: str) -> bytes:
    """Return a map of the character A to a UTF-16 code unit in hexadecimal."""
    return (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def 1 begincodespacerange <00> <FF> "
        f"endcodespacerange 1 beginbfchar <41> <{code_unit}> endbfchar endcmap end end"
    ).encode()


def bomb_of(size: int) -> bytes:
    """Return a file of a few kB whose one stream expands to `size` bytes, through two compressions."""
    packer = zlib.compressobj(9)
    inner = b"".join(packer.compress(b" " * 2**20) for _ in range(size >> 20)) + packer.flush()
    return pdf_of(zlib.compress(inner, 9), filters=(b"FlateDecode", b"FlateDecode"))


def encrypted(data: bytes) -> bytes:
    """Return the file, encrypted with a password."""
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(BytesIO(data)))
    writer.encrypt("secret", algorithm="AES-256")
    out = BytesIO()
    writer.write(out)
    return out.getvalue()
