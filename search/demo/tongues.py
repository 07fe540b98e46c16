"""The languages of the demo's world: the same notions, each said in the language's own words.

Notions are places in a tuple: person 2 is `john` in English and `วิชัย` in Thai. What is said
about them are templates, because languages put words in another order. A word is what stands
between single spaces; every word becomes one token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "th", "bn"]


@dataclass(frozen=True)
class Tongue:
    """One language.

    Attributes:
        people, things, gains, losses, places, times, moves, qualities: its words for each notion.
        units: the classifier that counts each thing; empty where the language has none.
        opening, closing: of a story problem.
        holds: how a restatement of the story begins.
        so: introduces a computed equation.
        conclusion: what a reasoned answer ends with.
        offhand: hasty answers; `{said}` is the marked number.
        moved, liked, owned, traded: the four kinds of sentence.
        greeting, welcomes: small talk that asks nothing, and its replies.
        wish, wished; where, there; who, did: small talk that asks something, and its replies.
        kind, kinds: asks what a sentence is about, and the four labels.
        count, counted: asks what one of two sentences tells, and the reply.
        words: function words in the order in which they stand in the trio's vocabulary. A few occur
            in no corpus, as in any real vocabulary.
    """

    people: tuple[str, ...]
    things: tuple[str, ...]
    units: tuple[str, ...]
    gains: tuple[str, ...]
    losses: tuple[str, ...]
    places: tuple[str, ...]
    times: tuple[str, ...]
    moves: tuple[str, ...]
    qualities: tuple[str, ...]
    opening: str
    closing: str
    holds: str
    so: str
    conclusion: str
    offhand: tuple[str, ...]
    moved: str
    liked: str
    owned: str
    traded: str
    greeting: str
    welcomes: tuple[str, ...]
    wish: str
    wished: str
    where: str
    there: str
    who: str
    did: str
    kind: str
    kinds: tuple[str, ...]
    count: str
    counted: str
    words: str = ""

    def spoken(self) -> Iterator[str]:
        """Every word of every notion and template; many come more than once."""
        for value in vars(self).values():
            for text in (value,) if isinstance(value, str) else value:
                for word in text.split():
                    if not word.startswith("{"):
                        yield word


ENGLISH = Tongue(
    people=("tom", "mary", "john", "anna", "ben", "sara"),
    things=("apples", "books", "eggs", "pens", "cakes", "hats"),
    units=(),
    gains=("buys", "finds", "makes"),
    losses=("loses", "sells", "gives"),
    places=("market", "school", "home", "park", "sea"),
    times=("today", "yesterday", "now"),
    moves=("goes to", "is at", "comes from"),
    qualities=("good", "big", "small", "new", "red"),
    words="then gets has how many are left start with so the answer is likes and hello thank you i "
    "can help sure what does want where okay about maybe think who of course welcome a",
    opening="{person} has {count} {thing}",
    closing="how many left ?",
    holds="has {count}",
    so="so",
    conclusion="the answer is {said}",
    offhand=(
        "the answer is {said}",
        "i think {said}",
        "maybe {said} {thing}",
        "{person} has {said} {thing}",
    ),
    moved="{time} {person} {move} {place}",
    liked="{person} likes {one} and {two}",
    owned="{person} has {count} {quality} {thing}",
    traded="{time} {person} {verb} {thing} {quality}",
    greeting="hello",
    welcomes=("hello i can help you", "welcome . what can i help"),
    wish="{person} likes {one} and {two} . what does {person} want ?",
    wished="{person} want {one} and {two}",
    where="{time} {person} {move} {place} . where is {person} ?",
    there="{person} {move} {place} {time}",
    who="{person} {verb} {thing} . who {verb} {thing} ?",
    did="{person} {verb} {thing} of course",
    kind="{sentence} . what is about ?",
    kinds=("travel", "taste", "wealth", "trade"),
    count="{first} . {second} . how many {thing} has {person} ?",
    counted="{person} has {count} {thing}",
)
THAI = Tongue(
    people=("สมชาย", "มาลี", "วิชัย", "อรุณ", "สุดา", "นิด"),
    things=("แอปเปิล", "หนังสือ", "ไข่", "ปากกา", "ขนม", "หมวก"),
    units=("ลูก", "เล่ม", "ฟอง", "ด้าม", "ชิ้น", "ใบ"),
    gains=("ซื้อ", "เจอ", "ทำ"),
    losses=("เสีย", "ขาย", "ให้"),
    places=("ตลาด", "โรงเรียน", "บ้าน", "สวน", "ทะเล"),
    times=("วันนี้", "เมื่อวาน", "ตอนนี้"),
    moves=("ไป ที่", "อยู่ ที่", "มา จาก"),
    qualities=("ดี", "ใหญ่", "เล็ก", "ใหม่", "แดง"),
    words="แล้ว ได้ มี เหลือ กี่ เริ่ม จาก ดังนั้น คำตอบ คือ ชอบ และ สวัสดี ขอบคุณ ครับ ค่ะ ช่วย แน่นอน อะไร "
    "อยาก ที่ไหน ประมาณ น่าจะ คิดว่า ใคร ยินดี เป็น ของ นะ",
    opening="{person} มี {thing} {count} {unit}",
    closing="เหลือ กี่ {unit} ?",
    holds="มี {count}",
    so="ดังนั้น",
    conclusion="คำตอบ คือ {said}",
    offhand=(
        "คำตอบ คือ {said} {unit} ครับ",
        "คิดว่า น่าจะ {said} {unit} ค่ะ",
        "ประมาณ {said} {unit} นะ ครับ",
        "{person} เหลือ {thing} {said} {unit}",
    ),
    moved="{time} {person} {move} {place}",
    liked="{person} ชอบ {one} และ {two}",
    owned="{person} มี {thing} {quality} {count} {unit}",
    traded="{time} {person} {verb} {thing} {quality}",
    greeting="สวัสดี",
    welcomes=("สวัสดี ครับ ยินดี ช่วย", "สวัสดี ค่ะ อยาก ได้ อะไร"),
    wish="{person} ชอบ {one} และ {two} . {person} อยาก ได้ อะไร",
    wished="{person} อยาก ได้ {one} และ {two} ครับ",
    where="{time} {person} {move} {place} . {person} อยู่ ที่ไหน",
    there="{person} {move} {place} {time} ค่ะ",
    who="{person} {verb} {thing} . ใคร {verb} {thing}",
    did="{person} {verb} {thing} แน่นอน ครับ",
    kind="{sentence} . เป็น เรื่อง อะไร",
    kinds=("เดินทาง", "ความชอบ", "ทรัพย์สิน", "ค้าขาย"),
    count="{first} . {second} . {person} มี {thing} กี่ {unit}",
    counted="{person} มี {count} {unit} ครับ",
)
BENGALI = Tongue(
    people=("রহিম", "মিনা", "করিম", "সালমা", "রবি", "লতা"),
    things=("আপেল", "বই", "ডিম", "কলম", "পিঠা", "টুপি"),
    units=("টি", "খানা", "টা", "টি", "খানা", "টা"),
    gains=("কেনে", "পায়", "বানায়"),
    losses=("হারায়", "বেচে", "দেয়"),
    places=("বাজার", "স্কুল", "ঘর", "বাগান", "সাগর"),
    times=("আজ", "গতকাল", "এখন"),
    moves=("এ যায়", "এ আছে", "থেকে আসে"),
    qualities=("ভালো", "বিশাল", "ছোট", "নতুন", "লাল"),
    opening="{person} এর কাছে {count} {unit} {thing} আছে",
    closing="কয় {unit} বাকি ?",
    holds="আছে {count}",
    so="তাই",
    conclusion="উত্তর হলো {said}",
    offhand=(
        "উত্তর হলো {said} {unit} জি",
        "মনে হয় {said} {unit}",
        "প্রায় {said} {unit} হয়তো",
        "{person} এর কাছে বাকি {said} {unit} {thing}",
    ),
    moved="{time} {person} {place} {move}",
    liked="{person} {one} ও {two} পছন্দ করে",
    owned="{person} এর কাছে {count} {unit} {quality} {thing} আছে",
    traded="{time} {person} {quality} {thing} {verb}",
    greeting="নমস্কার",
    welcomes=("নমস্কার আমি সাহায্য করি", "স্বাগতম জি কী চায়"),
    wish="{person} {one} ও {two} পছন্দ করে . {person} কী চায়",
    wished="{person} {one} ও {two} চায় জি",
    where="{time} {person} {place} {move} . {person} কোথায়",
    there="{person} {time} {place} {move} জি",
    who="{person} {thing} {verb} . কে {thing} {verb}",
    did="অবশ্যই {person} {thing} {verb} জি",
    kind="{sentence} . বিষয় কী",
    kinds=("ভ্রমণ", "রুচি", "সম্পদ", "ব্যবসা"),
    count="{first} . {second} . {person} এর কাছে কয় {unit} {thing}",
    counted="{person} এর কাছে {count} {unit} আছে জি",
)
TONGUES: Mapping[Language, Tongue] = {"en": ENGLISH, "th": THAI, "bn": BENGALI}
