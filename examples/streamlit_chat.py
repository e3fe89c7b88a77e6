"""A chat in the browser: streamed, with a stop button, and errors in the proxy's words.

`pip install openai 'streamlit>=1.59'`, then `streamlit run streamlit_chat.py`
"""

import asyncio
import os

import streamlit as st
from openai import APIError, APIStatusError, AsyncOpenAI

PROXY_URL = os.environ.get("PROXY_URL", "http://127.0.0.1:8000")
KEY = os.environ["WORKER_ACCESS_KEY"]  # it stays in this process: no browser sees it
MODEL = os.environ.get("PROXY_MODEL", "@cf/meta/llama-3.1-8b-instruct-fast")


async def read(turns):
    """Ask, and let the answer of the last turn grow."""
    messages = []
    for turn in turns:
        messages.append({"role": "user", "content": turn["question"]})
        if turn["answer"]:
            messages.append({"role": "assistant", "content": turn["answer"]})
    async with AsyncOpenAI(base_url=PROXY_URL, api_key=KEY) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        async for chunk in stream:
            if chunk.choices:
                turns[-1]["answer"] += chunk.choices[0].delta.content or ""


async def draw(turns, place):
    """Draw the answer while it grows.

    Drawing is where Streamlit stops a script, so it goes on while nothing comes. To leave closes
    the connection; the proxy sees that, and closes the provider's.
    """
    reading = asyncio.create_task(read(turns))
    while not reading.done():
        place.markdown(turns[-1]["answer"] + " …")
        await asyncio.wait([reading], timeout=0.1)
    place.markdown(turns[-1]["answer"])
    reading.result()  # raises what it raised


def tell(error):
    """The proxy's own words, its code, and whether a retry helps (the SDK has tried by then)."""
    words = error.body["message"] if isinstance(error.body, dict) else error.message
    told = f"`{error.code}`: {words}" if error.code else words
    if isinstance(error, APIStatusError):  # else it broke off later, and there are no headers
        wait = error.response.headers.get("Retry-After")
        match error.response.headers.get("X-Should-Retry"):
            case "true":
                told += f"\n\nTry again in {wait or 'a few'} seconds."
            case "false" if wait:
                told += f"\n\nTrying again does not help for the next {wait} seconds."
            case "false":
                told += "\n\nTrying again does not help."
    return told


st.title("Chat")
turns = st.session_state.setdefault("turns", [])
for turn in turns:
    st.chat_message("user").markdown(turn["question"])
    with st.chat_message("assistant"):
        st.markdown(turn["answer"])
        if turn["stopped"]:
            st.caption("Stopped.")
        if turn["failure"]:
            st.error(turn["failure"])

if question := st.chat_input("Ask something", submit_mode="stop"):
    turn = {"question": question, "answer": "", "failure": "", "stopped": True}
    turns.append(turn)
    st.chat_message("user").markdown(question)
    with st.chat_message("assistant"):
        try:
            asyncio.run(draw(turns, st.empty()))
        except APIError as error:
            turn["failure"] = tell(error)
            st.error(turn["failure"])
    turn["stopped"] = False
