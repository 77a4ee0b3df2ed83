// SPDX-License-Identifier: GPL-2.0-only
/*
 * The options of send and receive that say who we are and whom we trust.
 */
#include "tool.h"

bool tls_option(int option, const char *value, struct migr_tls *tls)
{
	switch (option) {
	case TLS_CA:
		tls->ca = value;
		return true;
	case TLS_CERT:
		tls->certificate = value;
		return true;
	case TLS_KEY:
		tls->key = value;
		return true;
	case TLS_PEER:
		tls->peer = value;
		return true;
	case TLS_CIPHER:
		tls->cipher = value;
		return true;
	case TLS_INSECURE:
		tls->insecure = true;
		return true;
	default:
		return false;
	}
}
