"""A chat in the browser: streamed, with a stop button, and with the proxy's error messages.

`pip install openai 'streamlit>=1.59'`, then `streamlit run streamlit_chat.py`
"""

import asyncio
import os

import streamlit as st
from openai import APIError, APIStatusError, AsyncOpenAI

PROXY_URL = os.environ.get("PROXY_URL", "http://127.0.0.1:8000")
KEY = os.environ["WORKER_ACCESS_KEY"]  # stays in this process; the browser never gets it
MODEL = os.environ.get("PROXY_MODEL", "@cf/meta/llama-3.1-8b-instruct-fast")


async def read(turns):
    """Send the conversation; append the streamed text to the last turn's answer."""
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
    """Show the answer while it grows.

    Streamlit stops a script only when the script draws something, so draw ten times a second even
    if no text has arrived. Leaving closes the connection to the proxy, which closes the provider's.
    """
    reading = asyncio.create_task(read(turns))
    while not reading.done():
        place.markdown(turns[-1]["answer"] + " …")
        await asyncio.wait([reading], timeout=0.1)
    place.markdown(turns[-1]["answer"])
    reading.result()  # raises the error of read()


def describe(error):
    """The error message and its code, and whether a retry helps (the SDK has tried already)."""
    message = error.body["message"] if isinstance(error.body, dict) else error.message
    text = f"`{error.code}`: {message}" if error.code else message
    if isinstance(error, APIStatusError):  # otherwise the stream failed later: no headers
        wait = error.response.headers.get("Retry-After")
        match error.response.headers.get("X-Should-Retry"):
            case "true":
                text += f"\n\nTry again in {wait or 'a few'} seconds."
            case "false" if wait:
                text += f"\n\nTrying again does not help for the next {wait} seconds."
            case "false":
                text += "\n\nTrying again does not help."
    return text


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
            turn["failure"] = describe(error)
            st.error(turn["failure"])
    turn["stopped"] = False
