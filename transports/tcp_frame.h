/* tcp_frame.h: what the TCP transport puts on the wire. All fields are little-endian.
 *
 *   data lane     | magic 4 | version 4 | len 8 | tag 24 |  payload, len bytes
 *   control       | kind 4  | len 4     |  body, len bytes: nothing (GO, BYE) or a notice
 *   handshake     dialer                              listener
 *                 hello 64                     ---->
 *                                              <----  hello 64, proof 32
 *                 proof 32, join 32            ---->
 *                                              <----  accept 16
 *                 GO on the control socket, once every lane is accepted
 *   knock         as a handshake, but who waits to be dialed says it, and the join, of a lane
 * behind the last, is not accepted: the socket stays as it is
 *
 * Every length is fixed or compared with a local bound before it is believed. */
#ifndef TRANSPORTS_TCP_FRAME_H
#define TRANSPORTS_TCP_FRAME_H

#include <endian.h>
#include <string.h>

#include "base/auth.h"
#include "transports/transport.h"

#define TCP_MAGIC   0x49545554u /* "TUTI" */
#define TCP_VERSION 2u

#define TCP_FRAME_LEN   40
#define TCP_NOTICE_LEN  376
#define TCP_CONTROL_LEN 8 /* header */
#define TCP_CONTROL_MAX (TCP_CONTROL_LEN + TCP_NOTICE_LEN)
#define TCP_JOIN_LEN    32
#define TCP_ACCEPT_LEN  16
#define TCP_HAND_MAX    (AUTH_HELLO_LEN + AUTH_PROOF_LEN) /* longest message of the handshake */

enum tcp_control_kind { TCP_CONTROL_GO = 1, TCP_CONTROL_NOTICE = 2, TCP_CONTROL_BYE = 3 };

static inline void tcp_put32(uint8_t *at, uint32_t value)
{
    value = htole32(value);
    memcpy(at, &value, sizeof value);
}
static inline void tcp_put64(uint8_t *at, uint64_t value)
{
    value = htole64(value);
    memcpy(at, &value, sizeof value);
}
static inline uint32_t tcp_get32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return le32toh(value);
}
static inline uint64_t tcp_get64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return le64toh(value);
}

static inline void tcp_put_tag(uint8_t *at, const struct tag *tag)
{
    for (int i = 0; i < 3; i++)
        tcp_put64(at + 8 * i, tag->word[i]);
}
static inline void tcp_get_tag(const uint8_t *at, struct tag *tag)
{
    for (int i = 0; i < 3; i++)
        tag->word[i] = tcp_get64(at + 8 * i);
}

static inline void tcp_put_frame(uint8_t out[TCP_FRAME_LEN], uint64_t len, const struct tag *tag)
{
    tcp_put32(out, TCP_MAGIC);
    tcp_put32(out + 4, TCP_VERSION);
    tcp_put64(out + 8, len);
    tcp_put_tag(out + 16, tag);
}
/* False when this is no frame of ours: the stream is then beyond repair. */
static inline bool tcp_get_frame(const uint8_t in[TCP_FRAME_LEN], uint64_t *len, struct tag *tag)
{
    *len = tcp_get64(in + 8);
    tcp_get_tag(in + 16, tag);
    return tcp_get32(in) == TCP_MAGIC && tcp_get32(in + 4) == TCP_VERSION;
}

static inline void tcp_put_notice(uint8_t out[TCP_NOTICE_LEN], const struct notice *notice)
{
    _Static_assert(sizeof notice->text == TCP_NOTICE_LEN - 40, "the text fills a notice");
    tcp_put32(out, notice->kind);
    tcp_put32(out + 4, notice->culprit);
    tcp_put32(out + 8, (uint32_t)notice->status);
    tcp_put32(out + 12, notice->reserved);
    tcp_put_tag(out + 16, &notice->tag);
    memcpy(out + 40, notice->text, sizeof notice->text);
}
static inline void tcp_get_notice(const uint8_t in[TCP_NOTICE_LEN], struct notice *notice)
{
    notice->kind = tcp_get32(in);
    notice->culprit = tcp_get32(in + 4);
    notice->status = (int32_t)tcp_get32(in + 8);
    notice->reserved = tcp_get32(in + 12);
    tcp_get_tag(in + 16, &notice->tag);
    memcpy(notice->text, in + 40, sizeof notice->text);
    notice->text[sizeof notice->text - 1] = '\0';
}

#endif
