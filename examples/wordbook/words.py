"""A first stock of entries, written for this example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from eventstore import Repository, causation, event_store
from examples.wordbook import vocabulary
from examples.wordbook.vocabulary.entry import ENTRIES, Entry, entry_id_of
from examples.wordbook.vocabulary.events import registry

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker


class Word(NamedTuple):
    """What an editor would type in."""

    headword: str
    meanings: tuple[str, ...]
    sentence: str
    translation: str

    def write(self, entry: Entry) -> None:
        """Make it an entry that learners may take."""
        entry.draft("ja", self.headword, self.meanings)
        entry.add_example(self.sentence, self.translation)
        entry.publish()


def publish_all(sessions: sessionmaker[Session]) -> None:
    """Publish the words; those that were published before are left as they are."""
    entries = Repository(lambda: event_store(sessions, registry, schema=vocabulary.SCHEMA), ENTRIES)
    with causation(source_service="words"):
        for word in WORDS:
            entry_id = entry_id_of("ja", word.headword)
            entries.execute(entry_id, word.write, idempotency_key="first stock")


WORDS: Final = (
    Word("朝", ("morning",), "朝は静かです。", "The morning is quiet."),
    Word("雨", ("rain",), "雨が降っています。", "It is raining."),
    Word("犬", ("dog",), "犬は庭にいます。", "The dog is in the garden."),
    Word("駅", ("station",), "駅はどこですか。", "Where is the station?"),
    Word("海", ("sea", "ocean"), "海で泳ぎました。", "I swam in the sea."),
    Word("傘", ("umbrella",), "傘を忘れました。", "I forgot my umbrella."),
    Word("風", ("wind", "breeze"), "風が強いです。", "The wind is strong."),
    Word("川", ("river",), "川が流れています。", "The river flows."),
    Word("木", ("tree", "wood"), "木の下で休みます。", "We rest under the tree."),
    Word("切手", ("postage stamp",), "切手を集めています。", "I collect stamps."),
    Word("靴", ("shoes",), "靴を脱いでください。", "Please take off your shoes."),
    Word("魚", ("fish",), "魚を二匹買いました。", "I bought two fish."),
    Word("島", ("island",), "船で島へ行きます。", "We go to the island by boat."),
    Word("手紙", ("letter",), "手紙を書きました。", "I wrote a letter."),
    Word("時計", ("clock", "watch"), "時計が止まりました。", "The clock has stopped."),
    Word("鳥", ("bird",), "鳥が歌っています。", "The birds are singing."),
    Word("夏", ("summer",), "夏は暑いです。", "Summers are hot."),
    Word("橋", ("bridge",), "橋を渡りました。", "We crossed the bridge."),
    Word("花", ("flower", "blossom"), "花が咲きました。", "The flowers have opened."),
    Word("冬", ("winter",), "冬に雪が降ります。", "In winter it snows."),
    Word("星", ("star",), "星がたくさん見えます。", "Many stars can be seen."),
    Word("町", ("town",), "この町が好きです。", "I like this town."),
    Word("山", ("mountain",), "山に登りましょう。", "Let us climb the mountain."),
    Word("夢", ("dream",), "不思議な夢を見ました。", "I had a strange dream."),
)
