"""languages.py: normal forms and words by the rules of MLQA, MKQA and KorQuAD, and of scripts without spaces."""

import random
import unicodedata

import pytest

from minibert.evaluation.languages import LANGUAGES, normalize, words
from minibert.evaluation.scorer import exact_match, f1, score
from minibert.support.errors import BadInput
from minibert.text.records import Example, Gold


@pytest.mark.parametrize(
    ("language", "text", "normal"),
    [
        ("en", "The “clock”—a tower!", "clocka tower"),  # punctuation goes before the articles
        ("en", "El reloj", "el reloj"),
        ("es", "¿El reloj de la torre?", "reloj de torre"),
        ("es", "the clock", "the clock"),
        ("de", "Der Turm einer Stadt", "turm stadt"),
        ("de", "an der a-Moll „Messe“", "an amoll messe"),
        ("vi", "những con tàu của tôi", "con tàu tôi"),
        ("ar", "الكتاب، والبيت", "كتاب و بيت"),
        ("hi", "नदी का पुल।", "नदी का पुल"),  # a danda is punctuation, a vowel sign is not
        ("fr", "L’eau de la tour", "eau tour"),
        ("it", "dell'acqua, un fiume", "acqua fiume"),
        ("ru", "«Мост» — the", "мост the"),
        ("other", "the «Most»", "the most"),
        ("zh", "約兩萬，一千。公里", "約 兩 萬 一 千 公 里"),
        ("zh", "（1988年）BERT-Base模型", "1988 年 bertbase 模 型"),
        ("ja", "ロンドン・タワーは、ABC12", "ロ ン ド ン タ ワ ー は abc12"),
        ("th", "กรุงเทพ 12 ๚", "ก ร ุ ง เ ท พ 12"),
        ("ko", "《서울》의 '강'(물).", "서울 의 강 물"),
        ("zh", "。", ""),
    ],
)
def test_normal_form(language, text, normal):
    assert normalize(text, language) == normal


@pytest.mark.parametrize(
    ("language", "prediction", "gold", "exact", "overlap"),
    [
        ("zh", "兩萬一千公里", "約兩萬一千公里", 0, 12 / 13),
        ("zh", "中國北方，", "中國北方", 1, 1),
        ("ja", "東京タワー", "「東京タワー」", 1, 1),
        ("th", "กรุงเทพ", "กรุงเทพฯ", 0, 14 / 15),
        ("ko", "대한 민국", "대한민국의", 0, 8 / 9),  # F1 counts characters
        ("ko", "대한 민국", "대한민국", 0, 1),  # an exact match needs the spaces, as in KorQuAD
        ("de", "der Turm", "ein Turm", 1, 1),
        ("en", "der Turm", "ein Turm", 0, 1 / 2),
    ],
)
def test_scores_of_a_pair(language, prediction, gold, exact, overlap):
    assert exact_match(prediction, gold, language) == exact
    assert f1(prediction, gold, language) == pytest.approx(overlap, abs=1e-12)
    examples = [Example("q", "", "?", gold, (Gold(gold, 0),), None)]
    assert score(examples, {"q": prediction}, metric_language=language) == {
        "exact_match": 100 * exact,
        "f1": pytest.approx(100 * overlap),
        "total": 1,
    }


@pytest.mark.parametrize(
    ("prediction", "gold", "language", "right"),
    [("，", "", "zh", 100.0), ("，", "", None, 50.0), ("der", "。", "de", 100.0), ("のの", "の", "ja", 50.0)],
)
def test_v2_takes_the_empty_texts_of_the_language(prediction, gold, language, right):
    examples = [Example("q", "", "?", gold, (Gold(gold, 0),) if gold else (), not gold)]
    examples.append(Example("none", "", "?", "", (), True))
    assert score(examples, {"q": prediction, "none": ""}, metric_language=language)["exact"] == right


def test_an_unknown_language_is_refused_with_those_that_are_known():
    with pytest.raises(BadInput, match=r"metric_language: expected one of ar, .*, zh, found 'Chinese'"):
        score([Example("q", "", "?", "x", (Gold("x", 0),), None)], {"q": "x"}, metric_language="Chinese")


PARTS = "the el La der ein の 東 京 1988 年 abc カ 서울 กรุง $ 1,871 , ， 。 « “ - ' ( ー é ß das των и 的 २ हि".split()


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_a_normal_form_of_every_language_is_its_own_and_has_no_punctuation(language):
    draw = random.Random(1871)
    for _ in range(100):
        text = "".join(draw.choice(PARTS) + draw.choice(["", " "]) for _ in range(draw.randint(0, 9)))
        normal = normalize(text, language)
        assert normalize(normal, language) == normal
        assert not any(unicodedata.category(character)[0] == "P" for character in normal)
        assert "".join(words(text, language)) == normal.replace(" ", "")
