"""The account of a translated answer."""

from gateway.dialects.translation.answer_account import AnswerAccount, AnswerLoss


def test_what_came_in_and_did_not_go_out_is_a_loss():
    account = AnswerAccount()
    account.text_in, account.text_out, account.calls_in, account.calls_out = 9, 4, 3, 1
    assert account.losses() == (), "a part may still wait"
    account.is_closed = True
    assert account.losses() == (AnswerLoss("text", "5 characters of text"), AnswerLoss("call", "2 tool calls"))


def test_what_was_named_is_no_difference():
    account = AnswerAccount()
    account.text_in, account.is_closed = 5, True
    account.drop("reasoning", "reasoning", "hm...")
    assert account.losses() == (AnswerLoss("reasoning", "reasoning"),)


def test_names_fit_a_header_and_are_few():
    account = AnswerAccount()
    for number in range(99):
        account.drop("other", f"{number}; é\n{'x' * 99}")
    losses = account.losses()
    assert len(losses) == 16
    assert all(loss.name.isascii() and loss.name.isprintable() and len(loss.name) <= 64 for loss in losses)
    assert not any(";" in loss.name for loss in losses)
