"""Which letters of other scripts look like ASCII letters and digits? A small frozen table, one string of look-alikes a target.

Generated from the Unicode security data `confusables.txt` (UTS #39, by way of its JSON form): single characters whose prototype is an
ASCII letter or digit, of the scripts that are used to disguise Latin text, without those that NFKD maps by itself. Lower-case
Cyrillic and Greek letters that resemble only in use, and barred Latin letters, were added by hand. No behaviour here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_LOOKALIKES: Mapping[str, str] = MappingProxyType(
    {
        "2": "\u01a7\u03e8\ua644\ua75a",
        "3": "\u01b7\u021c\u0417\u04e0\u2ccc\ua76a\ua7ab\U0001d206",
        "4": "\u13ce",
        "5": "\u01bc",
        "6": "\u0431\u13ee\u2cd2",
        "7": "\U0001d212",
        "8": "\u0222\u0223",
        "9": "\u2cca\ua76e",
        "A": "\u0391\u0410\u13aa\ua4ee\U0001d6a8\U0001d6e2\U0001d71c\U0001d756\U0001d790",
        "B": "\u0392\u0412\u13f4\ua4d0\ua7b4\U0001d6a9\U0001d6e3\U0001d71d\U0001d757\U0001d791",
        "C": "\u03f9\u0421\u13df\u2ca4\ua4da\U00010415",
        "D": "\u0110\u13a0\ua4d3",
        "E": "\u0395\u0415\u13ac\ua4f0\U0001d6ac\U0001d6e6\U0001d720\U0001d75a\U0001d794",
        "F": "\u03dc\ua4dd\ua798\U0001d213\U0001d7ca",
        "G": "\u050c\u13c0\u13f3\ua4d6",
        "H": "\u0126\u0397\u041d\u13bb\u2c8e\ua4e7\U0001d6ae\U0001d6e8\U0001d722\U0001d75c\U0001d796",
        "I": "\u0196\u0399\u0406\u04c0\u13a5\u2c92\U0001d6b0\U0001d6ea\U0001d724\U0001d75e\U0001d798",
        "J": "\u037f\u0408\u13ab\ua4d9\ua7b2",
        "K": "\u039a\u041a\u13e6\u2c94\ua4d7\U0001d6b1\U0001d6eb\U0001d725\U0001d75f\U0001d799",
        "L": "\u0141\u13de\u2cd0\ua4e1\U0001041b\U0001d22a",
        "M": "\u039c\u03fa\u041c\u13b7\u2c98\ua4df\U0001d6b3\U0001d6ed\U0001d727\U0001d761\U0001d79b",
        "N": "\u039d\u2c9a\ua4e0\U0001d6b4\U0001d6ee\U0001d728\U0001d762\U0001d79c",
        "O": "\u00d8\u039f\u041e\u0555\u2c9e\ua4f3\U00010404\U0001d6b6\U0001d6f0\U0001d72a\U0001d764\U0001d79e",
        "P": "\u03a1\u0420\u13e2\u2ca2\ua4d1\U0001d6b8\U0001d6f2\U0001d72c\U0001d766\U0001d7a0",
        "R": "\u01a6\u13a1\u13d2\ua4e3\U0001d216",
        "S": "\u0405\u054f\u13d5\u13da\ua4e2\U00010420",
        "T": "\u0166\u03a4\u0422\u13a2\u2ca6\ua4d4\U0001d6bb\U0001d6f5\U0001d72f\U0001d769\U0001d7a3",
        "U": "\u054d\ua4f4",
        "V": "\u0474\u13d9\ua4e6\U0001d20d",
        "W": "\u051c\u13b3\u13d4\ua4ea",
        "X": "\u03a7\u0425\u2cac\ua4eb\ua7b3\U0001d6be\U0001d6f8\U0001d732\U0001d76c\U0001d7a6",
        "Y": "\u03a5\u03d2\u0423\u04ae\u13a9\u13bd\u2ca8\ua4ec\U0001d6bc\U0001d6f6\U0001d730\U0001d76a\U0001d7a4",
        "Z": "\u0396\u13c3\ua4dc\U000102f5\U0001d6ad\U0001d6e7\U0001d721\U0001d75b\U0001d795",
        "a": "\u0251\u03b1\u0430\U0001d6c2\U0001d6fc\U0001d736\U0001d770\U0001d7aa",
        "b": "\u0184\u042c\u0432\u13cf",
        "c": "\u03f2\u0441\u1d04\u2ca5\uabaf\U0001043d",
        "d": "\u0111\u0501\u13e7\ua4d2",
        "e": "\u03b5\u0435\u04bd\uab32",
        "f": "\u0584\u1e9d\ua799\uab35",
        "g": "\u018d\u0261\u0581\u1d83",
        "h": "\u0127\u043d\u04bb\u0570\u13c2",
        "i": (
            "\u0131\u0269\u026a\u03b9\u0456\u04cf\u1fbe\ua647\uab75\U0001d6a4\U0001d6ca\U0001d704\U0001d73e\U0001d778"
            "\U0001d7b2"
        ),
        "j": "\u03f3\u0458",
        "k": "\u03ba\u043a",
        "l": "\u0142\u01c0\ua4f2",
        "m": "\u043c",
        "n": "\u03b7\u0578\u057c",
        "o": (
            "\u00f8\u03bf\u03c3\u043e\u0585\u1d0f\u1d11\u2c9f\uab3d\U0001042c\U0001d6d0\U0001d6d4\U0001d70a\U0001d70e"
            "\U0001d744\U0001d748\U0001d77e\U0001d782\U0001d7b8\U0001d7bc"
        ),
        "p": (
            "\u03c1\u03f1\u0440\u2ca3\U0001d6d2\U0001d6e0\U0001d70c\U0001d71a\U0001d746\U0001d754\U0001d780\U0001d78e"
            "\U0001d7ba\U0001d7c8"
        ),
        "q": "\u051b\u0563\u0566",
        "r": "\u0433\u1d26\u2c85\uab47\uab48\uab81",
        "s": "\u01bd\u0455\ua731\uabaa\U00010448",
        "t": "\u0167\u03c4\u0442",
        "u": "\u028b\u03c5\u057d\u1d1c\ua79f\uab4e\uab52\U0001d6d6\U0001d710\U0001d74a\U0001d784\U0001d7be",
        "v": "\u03bd\u0475\u1d20\uaba9\U0001d6ce\U0001d708\U0001d742\U0001d77c\U0001d7b6",
        "w": "\u026f\u03c9\u0461\u051d\u0561\u1d21\uab83",
        "x": "\u0445",
        "y": "\u0263\u028f\u03b3\u0443\u04af\u1d8c\u1eff\uab5a\U0001d6c4\U0001d6fe\U0001d738\U0001d772\U0001d7ac",
        "z": "\u1d22\uab93",
    }
)

CONFUSABLES: Mapping[str, str] = MappingProxyType({source: target for target, sources in _LOOKALIKES.items() for source in sources})
