/** Statuses are upper case; people need not be. */
export const upperCase = (text: string): string => text.toUpperCase();
